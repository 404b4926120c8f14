"""What command lines have in common: flags, configs by name, a user's mistake in one message."""

import argparse
import logging
import pathlib
import resource
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import absl.logging

from ccnet_jax.common.errors import EndAfterSignal, UserError, user_error_in
from ccnet_jax.common.fields import LARGEST_WHOLE, nearest
from ccnet_jax.common.kernels import ending_well, fail
from ccnet_jax.common.signals import end_imports
from ccnet_jax.common.version import __version__
from ccnet_jax.config import config_files, records
from ccnet_jax.config.config import Config, parse, to_dict
from ccnet_jax.config.config_files import ConfigName
from ccnet_jax.engine.folder import LATEST, RunFolder
from ccnet_jax.engine.hosts.link import end_process, leave

LEAST_FILES = 128  # open at one time, for Python, JAX, a checkpoint and a few data workers
MOST_FILES = 65536  # more are not asked for: programs that JAX starts may look at each
_CONFIG_PREFIX = "--config."


class Parser(argparse.ArgumentParser):
    """Flags of a program; its docstring is the help text.

    Args:
      program: as in `python -m PROGRAM`.
      text: the program's docstring.
    """

    def __init__(self, program: str, text: str):
        super().__init__(
            prog=f"python -m {program}",
            description=text,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self.add_argument("--version", action="version", version=f"ccnet_jax {__version__}")

    def add_config(self) -> None:
        """Add `--config NAME`, also as the first argument without a flag, and `--config.KEY=VALUE`."""
        self.add_argument("named", nargs="?", metavar="CONFIG", help="the same as --config CONFIG")
        self.add_argument(
            "--config",
            metavar="NAME",
            help=f"{', '.join(config_files.names())} or a file, with :VARIANT where it has some",
        )
        self.add_parts()
        self.epilog = (
            "--config.KEY=VALUE changes any key of the config, for example --config.model.context=psp; the "
            "keys are in docs/train.md, and `python -m ccnet_jax.train --config NAME --show` prints them."
        )

    def add_run(self, text: str) -> None:
        """Add `--workdir RUN`, also as the first argument without a flag, and `--parts FILE`."""
        self.add_argument("named", nargs="?", metavar="RUN", help="the same as --workdir RUN")
        self.add_argument("--workdir", metavar="RUN", help=text)
        self.add_parts()

    def add_parts(self) -> None:
        """Add `--parts FILE`."""
        self.add_argument(
            "--parts",
            metavar="FILE",
            help="Python file that registers parts of your own, which the run needs",
        )

    def parse(self, arguments: Sequence[str] | None = None) -> argparse.Namespace:
        """The flags; `overrides` of the result is {key: text} of every --config.KEY=VALUE.

        Ends the program with one message where an argument is unknown or wrong.
        """
        rest, overrides = _without_overrides(sys.argv[1:] if arguments is None else arguments)
        if overrides and "--config" not in self._option_string_actions:
            self.error(
                f"--config.{next(iter(overrides))} cannot be changed here: the config is the run's; use the "
                "flags of this program"
            )
        known, unknown = self.parse_known_args(rest)
        if unknown:
            flags = [flag for flag in self._option_string_actions if flag.startswith("--")]
            self.error(f"unknown argument {unknown[0]!r}{nearest(unknown[0].split('=')[0], flags)}")
        for action in self._actions:
            value = getattr(known, action.dest, None)
            if value == "" or (isinstance(value, list) and "" in value):
                name = action.option_strings[-1] if action.option_strings else action.metavar or action.dest
                self.error(f"{name} is empty; give it a value")
        known.overrides = overrides
        return known

    def error(self, message: str) -> NoReturn:
        """End the program with one message and exit code 2."""
        fail(f"{message}; --help lists what there is")


def _without_overrides(arguments: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The arguments without --config.KEY=VALUE or --config.KEY VALUE, and {KEY: VALUE}; the last wins."""
    rest, overrides = [], {}
    waiting = list(arguments)
    while waiting:
        argument = waiting.pop(0)
        if not argument.startswith(_CONFIG_PREFIX):
            rest.append(argument)
            continue
        key, equals, value = argument.removeprefix(_CONFIG_PREFIX).partition("=")
        if not equals:
            value = waiting.pop(0) if waiting and not waiting[0].startswith("--") else ""
        overrides[key] = value
    return rest, overrides


def config_name(arguments: argparse.Namespace) -> ConfigName:
    """The config that the command line names. Raises UserError where it names none, or two."""
    given = [name for name in (arguments.config, arguments.named) if name is not None]
    if not given:
        known = ", ".join(config_files.names())
        raise UserError(f"pass --config NAME, one of {known}, or a file of your own")
    if len(given) > 1:
        raise UserError(f"the command line names two configs, {given[0]} and {given[1]}; name one")
    return ConfigName.of(given[0])


def config_of(arguments: argparse.Namespace) -> Config:
    """The config that the command line names, with its changes, checked. Raises UserError."""
    run_parts(arguments)
    return parse(config_files.load(config_name(arguments)), arguments.overrides)


def run_of(arguments: argparse.Namespace) -> RunFolder:
    """The run that the command line names, by default the newest. Raises UserError where it names two."""
    given = [name for name in (arguments.workdir, arguments.named) if name is not None]
    if len(given) > 1:
        raise UserError(f"the command line names two runs, {given[0]} and {given[1]}; name one")
    return RunFolder.at(given[0] if given else LATEST)


def run_and_config(arguments: argparse.Namespace) -> tuple[RunFolder, Config]:
    """The run that the command line of training asks for, and its config."""
    return resumed_run(arguments) if arguments.resume is not None else named_run(arguments)


def named_run(arguments: argparse.Namespace) -> tuple[RunFolder, Config]:
    """The folder and the config that --workdir and --config name."""
    config = config_of(arguments)
    if arguments.workdir is not None:
        return RunFolder.at(arguments.workdir), config
    if config.distributed:
        raise UserError("with --config.distributed=True pass --workdir, so that all hosts share one folder")
    return RunFolder.new(config_name(arguments).title), config


def resumed_run(arguments: argparse.Namespace) -> tuple[RunFolder, Config]:
    """The run that --resume names, and its config with the changes on the command line."""
    if any(given is not None for given in (arguments.workdir, arguments.config, arguments.named)):
        raise UserError("--resume takes config and folder from the run; omit --config and --workdir")
    run_parts(arguments)
    run = RunFolder.at(arguments.resume)
    config = records.load_config(run)
    return run, parse(to_dict(config), arguments.overrides)


def run_parts(arguments: argparse.Namespace) -> None:
    """Run the file that registers parts of the user's own, if the command line names one."""
    if arguments.parts is None:
        return
    path = pathlib.Path(arguments.parts).expanduser()
    if not path.is_file():
        raise UserError(f"--parts {path} is no file; name a Python file of your own")
    config_files.module_of(path)


def whole(least: int, most: int) -> Callable[[str], int]:
    """What reads a flag's whole number for argparse; it raises ArgumentTypeError for another text."""

    def read(text: str) -> int:
        if not text.isascii() or not text.isdecimal() or len(text) > 20 or not least <= int(text) <= most:
            shown = text if len(text) <= 40 else f"{text[:40]}..."
            raise argparse.ArgumentTypeError(f"{shown!r} must be a whole number from {least} to {most}")
        return int(text)

    return read


positive = whole(1, LARGEST_WHOLE)


def whole_numbers(
    flag: str, text: str, wanted: str, least: int = -LARGEST_WHOLE, most: int = LARGEST_WHOLE
) -> tuple[int, ...]:
    """ "200,310" as (200, 310), as many as `wanted` ("ROW,COLUMN") has words; "..." at its end: up to 16.

    Raises UserError where the text is not that, or a number is not from `least` to `most`.
    """
    try:
        values = tuple(int(part) for part in text.split(","))
    except ValueError:
        values = ()
    count = len(wanted.split(","))
    if not values or (len(values) > 16 if wanted.endswith("...") else len(values) != count):
        raise UserError(f"{flag}={text} must be {wanted} in whole numbers")
    if not all(least <= value <= most for value in values):
        raise UserError(f"{flag}={text} must have whole numbers from {least} to {most}")
    return values


def pair(flag: str, text: str, wanted: str) -> tuple[int, int]:
    """ "200,310" as (200, 310), two whole numbers as `wanted` says. Raises UserError for other texts."""
    first, second = whole_numbers(flag, text, wanted)
    return first, second


def raise_open_files() -> None:
    """Allow this process as many open files as it may have. Raises UserError where those are too few."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return
    limit = max(soft, MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES))
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    if limit < LEAST_FILES:
        raise UserError(
            f"a process may have no more than {limit} files open here, and {LEAST_FILES} are needed; let the "
            f"shell, the service or the container have more, as `ulimit -n {4 * LEAST_FILES}` does"
        )


def quiet_orbax() -> None:
    """Let Orbax print nothing: below a fatal error it reports files, and tracebacks of tasks and threads.

    A checkpoint that cannot be written or read is told in one message of ours.
    """
    absl.logging.set_verbosity(absl.logging.FATAL)
    # it tells of each task whose error nobody asks for
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    tell_of_thread, tell = threading.excepthook, sys.unraisablehook

    def tell_unless_of_orbax(arguments: threading.ExceptHookArgs) -> None:
        if not _is_of_orbax(arguments.thread):
            tell_of_thread(arguments)

    def tell_unless_of_tensorstore(arguments: Any) -> None:
        # its threads give results to tasks that ended with the first error
        if "Event loop is closed" not in str(arguments.exc_value):
            tell(arguments)

    threading.excepthook, sys.unraisablehook = tell_unless_of_orbax, tell_unless_of_tensorstore


def orbax_waits() -> bool:
    """Whether a thread of Orbax is left, which after a failure waits minutes for others that do not come."""
    return any(not thread.daemon and _is_of_orbax(thread) for thread in threading.enumerate())


def _is_of_orbax(thread: threading.Thread | None) -> bool:
    return type(thread).__module__.partition(".")[0] == "orbax"


def run(main: Callable[[], Any]) -> None:
    """Run a program; a user's mistake becomes one message and its exit code, without a traceback.

    So do faults of the output and the device, see `kernels.bench.programs.ending_well`. Ctrl-C ends it with
    exit code 130.
    """
    quiet_orbax()
    end_imports()
    with ending_well():
        try:
            raise_open_files()
            main()
            if orbax_waits():
                leave(0)
        except KeyboardInterrupt:
            raise SystemExit(128 + signal.SIGINT) from None
        except EndAfterSignal as end:
            leave(int(end.code or 0))
        except Exception as error:
            mistake = user_error_in(error)
            if mistake is None:
                raise
            if mistake.at_once or orbax_waits():
                end_process(str(mistake), mistake.exit_code)
            fail(str(mistake), mistake.exit_code)
