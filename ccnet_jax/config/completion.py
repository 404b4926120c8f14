"""Print what completes the command `ccnet` in a shell: programs, flags, configs and files.

    ccnet completion bash > ~/.local/share/bash-completion/completions/ccnet
    ccnet completion zsh > "${fpath[1]}/_ccnet"

It holds the configs of now: print it again after an update.
"""

import argparse
import importlib
from collections.abc import Sequence

from ccnet_jax.common.errors import UserError
from ccnet_jax.config import command_line, config_files
from ccnet_jax.config.programs import KERNELS, PROGRAMS

SHELLS = ("bash", "zsh")
# Flags, and arguments without one, whose values are configs; those of the others are files.
_CONFIGS = {"CONFIG", "NAME"}
# In bash a colon ends a word, and configs have colons.
_BASH = """
COMP_WORDBREAKS=${COMP_WORDBREAKS//:}
_ccnet_configs() { compgen -W '%s' -- "$1"; compgen -f -- "$1"; }
"""


def flags() -> command_line.Parser:
    """The command line."""
    parser = command_line.Parser("ccnet_jax.config.completion", __doc__)
    parser.add_argument("shell", choices=SHELLS)
    return parser


def programs() -> argparse.ArgumentParser:
    """A parser that knows every program and its flags."""
    parser = argparse.ArgumentParser("ccnet")
    commands = parser.add_subparsers()
    for name, (module, meaning) in PROGRAMS.items():
        commands.add_parser(name, help=meaning)
        if not module.startswith(KERNELS):  # those of the kernels stand alone, and have a parser of argparse
            commands.choices[name] = importlib.import_module(module).flags()
    return parser


def completion_script(shell: str) -> str:
    """The text for a shell, one of `SHELLS`. Raises UserError where the package that makes it is missing."""
    try:
        import shtab
    except ImportError:
        raise UserError("completion needs the package shtab: pip install shtab") from None

    parser = programs()
    configs = config_files.names_with_variants()
    in_zsh = " ".join(name.replace(":", r"\:") for name in configs)
    complete = {"bash": "_ccnet_configs", "zsh": f"({in_zsh})"}
    (commands,) = (x for x in parser._actions if isinstance(x, argparse._SubParsersAction))
    for program in commands.choices.values():
        for action in program._actions:
            if action.nargs == 0 or action.choices:
                continue
            action.complete = complete if action.metavar in _CONFIGS else shtab.FILE
    return shtab.complete(parser, shell, preamble=_BASH % " ".join(configs) if shell == "bash" else "")


def main(command: Sequence[str] | None = None) -> None:
    """The program."""
    print(completion_script(flags().parse(command).shell))


if __name__ == "__main__":
    command_line.run(main)
