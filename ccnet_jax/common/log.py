"""What the project says while it works: by Python's logger "ccnet_jax"; one host speaks for all.

What a program was asked for, as a table of scores, it prints. A handler that you give the logger takes the
place of ours, which writes above progress bars, warnings to standard error.
"""

import contextlib
import logging
import sys
from collections.abc import Iterator

import tqdm

NAME = "ccnet_jax"
_WARNING = "warning: "
_speaks = True  # whether this process speaks for all hosts


class _AboveBars(logging.Handler):
    """Writes a line at once above the bars that are drawn: a warning to standard error, others to output."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            stream = sys.stderr if record.levelno >= logging.WARNING else sys.stdout
            tqdm.tqdm.write(self.format(record), file=stream)
            stream.flush()
        except OSError:
            raise  # nobody reads the output any more, which ends the program
        except Exception:
            self.handleError(record)


def say(line: str, every_host: bool = False) -> None:
    """Log a line: as a warning where it begins with "warning: ", else as information.

    Args:
      line: the text.
      every_host: whether each host says it, since it is about that host alone.
    """
    if _speaks or every_host:
        is_warning = line.startswith(_WARNING)
        _logger().log(logging.WARNING if is_warning else logging.INFO, "%s", line)


@contextlib.contextmanager
def speaking(speaks: bool) -> Iterator[None]:
    """Inside, this process speaks for all hosts, or does not."""
    global _speaks
    before, _speaks = _speaks, _speaks and speaks
    try:
        yield
    finally:
        _speaks = before


def _logger() -> logging.Logger:
    """The logger, with a handler and a level; given at the first line, since importing changes nothing."""
    logger = logging.getLogger(NAME)
    if not logger.handlers:
        logger.addHandler(_AboveBars())
        logger.propagate = False
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.INFO)
    return logger
