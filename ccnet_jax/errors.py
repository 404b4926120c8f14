"""How a user's mistake is told: one sentence, exit code 2, no traceback."""

import contextlib
import os
import pathlib
import sys
from collections.abc import Callable, Iterator

from absl import app, flags

from kernels import whole_file


class UserError(Exception):
    """Something the user can put right: its message names the file, key or shape, and the remedy."""


def run(main: Callable[..., None], positional: str | None = None) -> None:
    """Parse the command line and run `main`, turning a user's mistake into one sentence.

    Where `positional` names an argument without a flag, `main` is called with its one value or more.
    """

    def parse(arguments: list[str]) -> list[str]:
        _check_config_file(arguments)
        try:
            rest = flags.FLAGS(arguments)
        except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
            _exit(_last_line(error))  # all but the first come from ml_collections and --config.KEY
        if positional is None and len(rest) > 1:
            _exit(f"unknown argument {rest[1]!r}; --help lists what there is")
        if positional is not None and len(rest) == 1:
            _exit(f"name the {positional}; --help lists what else there is")
        return rest

    def guarded(arguments: list[str]) -> None:
        try:
            main(*arguments[1:])
        except Exception as error:
            cause: BaseException | None = error
            while cause is not None and not isinstance(cause, UserError):
                cause = cause.__cause__ or cause.__context__  # a data worker wraps what it met
            if cause is None:
                raise
            _exit(str(cause))

    app.run(guarded, flags_parser=parse)


@contextlib.contextmanager
def writing(path: object, remedy: str = "choose another place") -> Iterator[None]:
    """Tell in one sentence why `path` cannot be written."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}); {remedy}") from None


def write_whole(path: pathlib.Path, data: bytes | str) -> None:
    """Write `data` to `path`, whole or not at all, and make its folder.

    Raises UserError where the file cannot be written.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        whole_file.write_whole(path, data)


def whole_numbers(flag: str, text: str, wanted: str) -> tuple[int, ...]:
    """ "200,310" as (200, 310), as many as `wanted` ("ROW,COLUMN") has words; "..." at its end: any number.

    Raises UserError where they are not that.
    """
    try:
        values = tuple(int(part) for part in text.split(","))
    except ValueError:
        values = ()
    count = len(wanted.split(","))
    if not values or (len(values) != count and not wanted.endswith("...")):
        raise UserError(f"{flag}={text} must be {wanted} in whole numbers")
    return values


def _check_config_file(arguments: list[str]) -> None:
    for i, argument in enumerate(arguments):
        name, _, value = argument.partition("=")
        if name.lstrip("-") == "config":
            path = (value or " ".join(arguments[i + 1 : i + 2])).split(":")[0]
            if not os.path.isfile(path):
                _exit(f"--config={path} is not a file; the project's own configs are in configs/")


def _last_line(error: Exception) -> str:
    """ml_collections puts whole tracebacks into messages, with what went wrong at their end."""
    text = " ".join(str(argument) for argument in error.args)
    if "Traceback" in text:
        text = text.strip().splitlines()[-1]
    return " ".join(text.split())


def _exit(sentence: str) -> None:
    print(f"error: {sentence}", file=sys.stderr, flush=True)
    raise SystemExit(2)
