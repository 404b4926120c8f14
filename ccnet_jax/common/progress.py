"""Progress bars: drawn in a terminal, and one line a minute in a log file."""

import sys
from collections.abc import Iterable
from typing import Any

import tqdm

_SECONDS = 60.0  # between two lines where the output is no terminal


def progress_bar(
    iterable: Iterable[Any] | None = None,
    *,
    unit: str,
    total: int | None = None,
    initial: int = 0,
    desc: str | None = None,
    leave: bool = True,
    disable: bool = False,
    unit_scale: bool = False,
) -> tqdm.tqdm:
    """A bar on standard error, to loop over or to `update()`; `common.log.say` writes above it.

    It is a context manager. Where standard error is no terminal, the bar is a plain line, at most once a
    minute and at the end.

    Args:
      iterable: what to loop over, None where `update()` is called.
      unit: what is counted, for example "image".
      total: how many there are, None for the length of `iterable`.
      initial: how many were done before.
      desc: a word before the count.
      leave: whether the bar stays when it is closed. Without it, a bar that is closed within its first
        minute writes no plain line.
      disable: whether to show nothing, as on all hosts but the first.
      unit_scale: whether to count in thousands and millions (k, M).
    """
    kind = tqdm.tqdm if sys.stderr.isatty() else _Lines
    return kind(
        iterable,
        unit=unit,
        total=total,
        initial=initial,
        desc=desc,
        leave=leave,
        disable=disable,
        unit_scale=unit_scale,
        dynamic_ncols=True,
    )


class _Lines(tqdm.tqdm):
    """A bar as plain lines, with no carriage return, at least `_SECONDS` apart."""

    def __init__(self, iterable: Iterable[Any] | None, desc: str | None, **settings: Any):
        self._line_time: float | None = None  # when the last line was written, in seconds,
        self._line_count: float | None = None  # and its count
        desc = f"{desc}: " if desc else None
        # "gui": tqdm itself draws nothing; "miniters": it looks at the clock in every update
        super().__init__(iterable, desc, gui=True, mininterval=_SECONDS, miniters=1, **settings)

    def display(self, *_: Any, **__: Any) -> None:
        """Write a line if the last one is a minute old; `write` and new postfixes call this too."""
        since = self.start_t if self._line_time is None else self._line_time
        if self._time() - since >= _SECONDS:
            self._write_line(self.format_dict)

    def clear(self, *_: Any, **__: Any) -> None:
        """Do nothing: a line that is written stays."""

    def close(self) -> None:
        """Write the last line, with the mean rate."""
        is_wanted = self.leave or self._line_time is not None
        if not self.disable and is_wanted and self._line_count != self.n:
            self._write_line(self.format_dict | {"rate": None})  # None: the mean since the start
        super().close()

    def _write_line(self, state: dict[str, Any]) -> None:
        self._line_time, self._line_count = self._time(), self.n
        if self.total:
            form = "{desc}{n_fmt}/{total_fmt} ({percentage:.0f}%), {rate_fmt}, {remaining} left{postfix}"
        else:
            form = "{desc}{n_fmt} in {elapsed}, {rate_fmt}{postfix}"
        line = self.format_meter(**state | {"bar_format": form})
        self.fp.write(" ".join(line.split()) + "\n")  # tqdm aligns rates with spaces
        self.fp.flush()
