"""Drawing what a network has learnt that nothing has evaluated."""

from typing import Any

from ccnet_jax.config.config import Config
from ccnet_jax.engine.engine import Callback, Engine
from ccnet_jax.evaluation.evaluate import DRAWN
from ccnet_jax.tasks.messages import explain_memory_errors
from ccnet_jax.tasks.task import Tester


class Draw(Callback):
    """After the last step, predictions of the first images that were trained on.

    Args:
      engine: of the run.
      config: of the run.
      test: what draws predictions.
      source: the images.
    """

    def __init__(self, engine: Engine, config: Config, test: Tester, source: Any):
        super().__init__(engine)
        self._split, self._test, self._source = config.data.train_split, test, source

    def end(self, state: Any) -> None:
        """Draw."""
        images = self.engine.run.images(self._split)
        with explain_memory_errors("drawing", "lower --config.eval_batch_size"):
            self._test(self.engine.variables(), self._source, drawings=images, limit=DRAWN)
