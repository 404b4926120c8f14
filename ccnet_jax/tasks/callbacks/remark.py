"""Telling of steps that were out of the ordinary."""

from typing import Any

from ccnet_jax.common.log import say
from ccnet_jax.config.config import Config
from ccnet_jax.engine.engine import Callback, Engine
from ccnet_jax.tasks.messages import remarks
from ccnet_jax.tasks.task import Task


class Remark(Callback):
    """Hints on speed, steps that were skipped, and losses far above the usual, with the names of images.

    Args:
      engine: of the run.
      config: of the run.
      task: of the config.
      source: the images that are trained on.
    """

    def __init__(self, engine: Engine, config: Config, task: Task, source: Any):
        super().__init__(engine)
        self._config, self._task, self._source = config, task, source

    def after_step(self, step: int, state: Any) -> None:
        """Print what there is to say."""
        engine = self.engine
        told = remarks(engine.meter, self._config, self._task, self._source)
        for line in (*engine.clock.hints(), *told):
            say(line)
