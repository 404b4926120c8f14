"""Ending training by a signal."""

from typing import Any

from ccnet_jax.engine.engine import Callback
from ccnet_jax.engine.stopping import Stopped


class Stop(Callback):
    """After the step upon which all hosts have agreed; what stands before it in the list has saved."""

    def after_step(self, step: int, state: Any) -> None:
        """Raise Stopped."""
        if self.engine.stopped_by and step != self.engine.config.steps:
            raise Stopped(self.engine.stopped_by)
