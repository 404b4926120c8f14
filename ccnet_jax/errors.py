"""A user's mistake in one sentence, and files that are written whole or not at all."""

import contextlib
import json
import pathlib
from collections.abc import Iterator
from typing import Any

from kernels import whole_file


class UserError(Exception):
    """Something the user can put right: its message names the file, key or shape, and the remedy."""


@contextlib.contextmanager
def writing(path: object, remedy: str = "choose another place") -> Iterator[None]:
    """Inside, an error of the file system becomes a UserError that says why `path` cannot be written."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}); {remedy}") from None


def write_whole(path: pathlib.Path, data: bytes | str) -> None:
    """Write a file and the folders above it; the file is whole or not there.

    Raises UserError where it cannot be written.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        whole_file.write_whole(path, data)


def read_json(path: pathlib.Path, remedy: str) -> Any:
    """What a JSON file holds. Raises UserError, with the remedy, where it cannot be read."""
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); {remedy}") from None
    except (ValueError, RecursionError) as error:  # the second of lists in lists in lists, without end
        raise UserError(f"{path} cannot be read as JSON ({error}); {remedy}") from None


def write_json(path: pathlib.Path, value: Any) -> None:
    """`write_whole` of a value as JSON."""
    write_whole(path, json.dumps(value, indent=2) + "\n")
