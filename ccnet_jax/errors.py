"""How a user's mistake is told: one sentence, exit code 2, no traceback."""

import sys
from collections.abc import Callable

from absl import app, flags


class UserError(Exception):
    """Something the user can put right: its message names the file, key or shape, and the remedy."""


def run(main: Callable[[], None]) -> None:
    """Parse the command line and run `main`, turning a user's mistake into one sentence."""

    def parse(arguments: list[str]) -> list[str]:
        try:
            rest = flags.FLAGS(arguments)
        except flags.Error as error:
            raise SystemExit(_complain(str(error))) from None
        except (AttributeError, KeyError, TypeError, ValueError, OSError) as error:
            # ml_collections meets --config.KEY while it reads the flags
            raise SystemExit(_complain(_flag_sentence(error))) from None
        if len(rest) > 1:
            raise SystemExit(_complain(f"unknown argument {rest[1]!r}; --help lists what there is"))
        return rest

    def guarded(_: list[str]) -> None:
        try:
            main()
        except Exception as error:
            cause: BaseException | None = error
            while cause is not None and not isinstance(cause, UserError):
                cause = cause.__cause__ or cause.__context__  # a data worker wraps what it met
            if cause is None:
                raise
            raise SystemExit(_complain(str(cause))) from None

    app.run(guarded, flags_parser=parse)


def _flag_sentence(error: Exception) -> str:
    text = " ".join(str(argument) for argument in error.args) or type(error).__name__
    return " ".join(text.split())


def _complain(sentence: str) -> int:
    print(f"error: {sentence}", file=sys.stderr, flush=True)
    return 2
