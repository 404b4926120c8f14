"""A user's mistake in one message, and files that are written whole or not at all."""

import contextlib
import json
import pathlib
from collections.abc import Iterator
from typing import Any

from ccnet_jax.common import kernels
from ccnet_jax.common.files import read_file

_LONGEST = 240  # characters of what another library says


class UserError(Exception):
    """Something the user can put right: its message names the file, key or shape, and the remedy.

    Attributes:
      exit_code: of a program that ends with it.
      at_once: whether the program ends without waiting for its threads.
    """

    exit_code = 2
    at_once = False


class HostLost(UserError):
    """Another process of the run is missing or was lost; the same command, started again, goes on."""

    exit_code = 75  # "temporary failure, try again" in the sysexits.h of Unix


class EndAfterSignal(SystemExit):
    """The end by a signal, all being saved and closed. A program does not wait for its threads, then."""


class EndsElsewhere(Exception):
    """Another process of the run has met an error, and will say which; this one ends with it."""


def user_error_in(error: BaseException) -> UserError | None:
    """The UserError that an error is, or that led to it; None where there is none."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, UserError):
        cause = cause.__cause__ or cause.__context__  # a data worker wraps the error that it met
    return cause


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or the name of its class where it says nothing.

    Of a long one beginning and end, where the reason stands: TensorStore puts paths and settings between.
    """
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST // 2]} ... {line[-_LONGEST // 2 :]}"


@contextlib.contextmanager
def explain_write_errors(path: object, remedy: str = "choose another place") -> Iterator[None]:
    """Inside, an error of the file system becomes a UserError that says why `path` cannot be written."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}); {remedy}") from None


def write_whole(path: pathlib.Path, data: bytes | str) -> None:
    """Write a file and the folders above it; the file is whole or not there.

    Raises UserError where it cannot be written.
    """
    with explain_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        kernels.write_whole(path, data)


def read_json(path: pathlib.Path, remedy: str) -> Any:
    """What a JSON file holds. Raises UserError, with the remedy, where it cannot be read."""
    try:
        return json.loads(read_file(path))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); {remedy}") from None
    except (ValueError, RecursionError) as error:  # the second of lists in lists in lists, without end
        raise UserError(f"{path} cannot be read as JSON ({error}); {remedy}") from None


def write_json(path: pathlib.Path, value: Any) -> None:
    """`write_whole` of a value as JSON."""
    write_whole(path, json.dumps(value, indent=2) + "\n")
