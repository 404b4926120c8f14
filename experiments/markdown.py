"""Tables in Markdown, as the manual shows them."""

from collections.abc import Iterable, Sequence

SHORT = 7  # characters of a commit


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table: its header, a line below it, and the rows."""
    return "\n".join([_row(header), "|---" * len(header) + "|", *map(_row, rows)])


def percent(share: float | None) -> str:
    """A share from 0 to 1 in percent with one decimal; "-" where there is none."""
    return "-" if share is None else f"{100 * share:.1f}"


def short_commit(commit: str) -> str:
    """The beginning of what `git describe` says, with "-dirty" where files differed from the commit."""
    name, dash, state = commit.partition("-")
    return f"{name[:SHORT]}{dash}{state}"


def measured_at(name: str, commit: str, newest: str) -> str:
    """A row's name, with its commit where that is not the `newest`, which the caption of the table names."""
    return name if commit == newest else f"{name} (at `{short_commit(commit)}`)"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
