"""How programs end where what is around them fails: without a traceback."""

import argparse
import contextlib
import errno
import io
import os
import pathlib
import select
import signal
import sys
from collections.abc import Iterator
from typing import NoReturn, TextIO

import jax

from ..whole_file import obstacle


class Parser(argparse.ArgumentParser):
    """Flags of a program; a mistake is one message and exit code 2, without the list of all flags.

    Args:
      program: as in `python -m PROGRAM`.
      text: the program's docstring.
    """

    def __init__(self, program: str, text: str | None):
        first_line = (text or "").partition("\n")[0]
        super().__init__(prog=f"python -m {program}", description=first_line, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """End with the message."""
        fail(f"{message}; --help lists what there is")


@contextlib.contextmanager
def ending_well() -> Iterator[None]:
    """Inside, what is wrong with the output or the device ends the program, though not with a traceback.

    Where nobody reads the output any more, as behind `| head`, the exit code is 141, as after SIGPIPE. Where
    it cannot be written, or JAX lacks the device that JAX_PLATFORMS names, a message on standard error says
    so, and the exit code is 2.
    """
    try:
        try:
            yield
        finally:
            for stream in _streams():
                stream.flush()
    except Exception:
        _end_where_output_fails()
        if reason := no_device():
            fail(reason)
        raise


def fail(message: str, code: int = 2) -> NoReturn:
    """End the program with a message on standard error and an exit code."""
    print(f"error: {message}", file=sys.stderr, flush=True)
    raise SystemExit(code)


def no_device() -> str | None:
    """A message where JAX cannot start with the JAX_PLATFORMS that it was told, None where it can."""
    platforms = jax.config.values["jax_platforms"]
    if not platforms:
        return None
    try:
        jax.devices()
    except Exception as error:  # JAX's assertions, too
        reason = str(error).partition(" (set JAX_PLATFORMS")[0]
        reason = f" ({reason.splitlines()[0]})" if reason else ""
        return (
            f"JAX_PLATFORMS={platforms} names a device that JAX does not find here{reason}; unset it, and "
            "JAX takes what there is"
        )
    return None


def result_file(text: str) -> pathlib.Path:
    """A flag's file that can be written, as argparse reads it. Raises ArgumentTypeError for another."""
    path = pathlib.Path(text).expanduser()
    if reason := obstacle(path):
        raise argparse.ArgumentTypeError(f"{path} {reason}; name another file")
    return path


def _streams() -> list[TextIO]:
    """Standard output and error, as far as they are open."""
    return [stream for stream in (sys.stdout, sys.stderr) if stream is not None]


def _end_where_output_fails() -> None:
    """End the program where standard output or error can be written no more."""
    errors = {stream: error for stream in _streams() if (error := _output_error(stream)) is not None}
    for stream in errors:  # what is left to write goes nowhere, when Python ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    if errno.EPIPE in errors.values():
        raise SystemExit(128 + signal.SIGPIPE)
    for error in errors.values():
        fail(f"standard output cannot be written ({os.strerror(error)}); make room, or write it elsewhere")


def _output_error(stream: TextIO) -> int | None:
    """The number of the error with which a stream fails; None where it does not."""
    try:
        stream.flush()
        reader = select.poll()
        reader.register(stream.fileno(), 0)
        gone = any(events & (select.POLLERR | select.POLLHUP) for _, events in reader.poll(0))
    except (io.UnsupportedOperation, ValueError):  # a notebook's stream, or a test's
        return None
    except OSError as error:
        return error.errno
    return errno.EPIPE if gone else None
