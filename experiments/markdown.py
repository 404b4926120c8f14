"""Tables in Markdown, as the manual shows them.

What is computed from numbers of a table is computed from the numbers as the table shows them, by `difference`
and `ratio`: a reader who computes it again finds the same.
"""

import re
from collections.abc import Iterable, Sequence
from decimal import Decimal

SHORT = 7  # characters of a commit


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table: its header, a line below it, and the rows."""
    return "\n".join([_row(header), "|---" * len(header) + "|", *map(_row, rows)])


def percent(fraction: float | None) -> str:
    """A fraction from 0 to 1 in percent with one decimal; "-" where there is none."""
    return "-" if fraction is None else f"{100 * fraction:.1f}"


def digits(number: float) -> str:
    """A number above 0 with four digits, or all before its point where it has more."""
    return f"{number:.0f}" if number >= 1000 else f"{number:.4g}"


def difference(cell: str, other: str) -> Decimal:
    """Of the numbers that two cells begin with, exactly: "45.0" and "40.3" differ by 4.7."""
    return _number(cell) - _number(other)


def ratio(cell: str, other: str) -> float:
    """Of the numbers that two cells begin with."""
    return float(_number(cell) / _number(other))


def _number(cell: str) -> Decimal:
    """The number that a cell begins with, as "12.3 (11 to 14)"."""
    found = re.match(r"[+-]?[\d,.]+(e[+-]?\d+)?", cell)
    if found is None:
        raise ValueError(f"the cell {cell!r} begins with no number")
    return Decimal(found[0].replace(",", ""))


def short_commit(commit: str) -> str:
    """The beginning of what `git describe` says, with "-dirty" where files differed from the commit."""
    name, dash, state = commit.partition("-")
    return f"{name[:SHORT]}{dash}{state}"


def measured_at(name: str, commit: str, newest: str) -> str:
    """A row's name, with its commit where that is not the `newest`, which the caption of the table names."""
    return name if commit == newest else f"{name} (at `{short_commit(commit)}`)"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
