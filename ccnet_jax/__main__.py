"""The command `ccnet`, which starts every program; also `python -m ccnet_jax`.

    ccnet                            # lists the programs
    ccnet train --config demo        # the same as python -m ccnet_jax.train --config demo
    ccnet completion bash            # prints what completes programs, flags and configs in a shell

Each program is a module, and answers --help.
"""

import importlib
import sys
from collections.abc import Sequence

from ccnet_jax.common.errors import UserError
from ccnet_jax.common.fields import nearest
from ccnet_jax.config import command_line
from ccnet_jax.config.programs import PROGRAMS


def main(command: Sequence[str] | None = None) -> None:
    """The program."""
    given = list(sys.argv[1:] if command is None else command)
    if given and given[0] in PROGRAMS:
        importlib.import_module(PROGRAMS[given[0]][0]).main(given[1:])
        return
    program = flags().parse(given).program
    if program is not None:
        raise UserError(f"there is no program {program!r}{nearest(program, PROGRAMS)}; --help lists them")
    print(_text())


def flags() -> command_line.Parser:
    """The command line, where it names no program."""
    parser = command_line.Parser("ccnet_jax", _text())
    parser.add_argument("program", nargs="?", help="a program's name, and what it is to do")
    return parser


def _text() -> str:
    lines = [f"  ccnet {name:11} {meaning}" for name, (_, meaning) in PROGRAMS.items()]
    last = "In a clone `python -m ccnet_jax` is the same as `ccnet`."
    return "\n".join(["CCNet in JAX. The programs, each of which answers --help:", "", *lines, "", last])


def ccnet() -> None:
    """The command."""
    command_line.run(main)


if __name__ == "__main__":
    ccnet()
