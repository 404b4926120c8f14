"""What logging to a tracker of experiments has in common."""

import abc
import contextlib
import importlib.util
import os
from collections.abc import Iterator, Mapping
from typing import Any

from ccnet_jax.common.errors import UserError, first_line, read_json, write_json
from ccnet_jax.common.log import say
from ccnet_jax.engine.engine import Callback, Engine


class Tracker(Callback, abc.ABC):
    """Sends every logged value to a tracker, from the first host; a run that goes on is the same run there.

    The tracker's own environment variables say where it is and how one signs in. What it does not take is
    told and left out: training goes on.

    Args:
      engine: of the run.
      settings: {key: value} of the config.

    Attributes:
      package: that it needs.
    """

    package: str

    def __init__(self, engine: Engine, settings: Mapping[str, Any]):
        super().__init__(engine)
        self._settings = settings
        if importlib.util.find_spec(self.package) is None:
            raise UserError(
                f"config.tracker={self.package} needs the package {self.package}, which is not installed: "
                "pip install 'ccnet_jax[track]'"
            )

    @abc.abstractmethod
    def start(self, known: str | None) -> str:
        """Start, or go on with the tracker's run `known`; its name there."""

    @abc.abstractmethod
    def send(self, step: int, values: Mapping[str, float]) -> None:
        """Send values of a step."""

    @abc.abstractmethod
    def finish(self, is_whole: bool) -> None:
        """Send all that is left. `is_whole`: whether no error has ended training."""

    def begin(self, state: Any) -> None:
        """Start; until training ends, however it does."""
        if self.engine.is_first:
            self.engine.enter(self._open_run())

    def after_log(self, step: int, values: Mapping[str, float]) -> None:
        """Send them."""
        if self.engine.is_first:
            with self._report_errors():
                self.send(step, values)

    @contextlib.contextmanager
    def _open_run(self) -> Iterator[None]:
        file = self.engine.run.tracker_file
        remedy = "remove it, and a new run begins in the tracker"
        names = read_json(file, remedy) if os.path.lexists(file) else {}
        if not isinstance(names, dict):
            raise UserError(f"{file} holds no names of runs; {remedy}")
        try:
            name = self.start(names.get(self.package))
        except Exception as error:  # the tracker's own kinds
            raise UserError(
                f"config.tracker={self.package} cannot start ({first_line(error)}); set it None to go without"
            ) from None
        write_json(file, names | {self.package: name})
        is_whole = False
        try:
            yield
            is_whole = True
        except SystemExit:
            is_whole = True
            raise
        finally:
            with self._report_errors():
                self.finish(is_whole)

    @contextlib.contextmanager
    def _report_errors(self) -> Iterator[None]:
        """Inside, an error of the tracker is a warning, and no more."""
        try:
            yield
        except Exception as error:  # the tracker's own kinds
            say(f"warning: {self.package} does not take a value ({first_line(error)}); it is left out")
