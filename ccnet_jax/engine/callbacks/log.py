"""Logging what was measured since the last log."""

import math
from collections.abc import Callable
from typing import Any

from ccnet_jax.common import devices
from ccnet_jax.engine.engine import Callback, Engine


class Log(Callback):
    """Every `config.log_every` steps, the means of the metrics, times, and the learning rate.

    Args:
      engine: of the run.
      learning_rate: number of steps that were made -> the learning rate of the next one.
    """

    def __init__(self, engine: Engine, learning_rate: Callable[[int], Any]):
        super().__init__(engine)
        self._learning_rate = learning_rate

    def after_step(self, step: int, state: Any) -> None:
        """Write the values, and show some of them in the progress bar."""
        engine = self.engine
        if not engine.is_due(engine.config.log_every, step):
            return
        engine.meter.wait()
        values = engine.meter.means() | engine.clock.read(step) | engine.batches.read(step)
        values["learning_rate"] = float(self._learning_rate(max(engine.meter.steps_made - 1, 0)))
        if (peak := devices.peak_memory(engine.mesh)) is not None:
            values["peak_memory_bytes"] = peak
        engine.write_values(step, values)
        engine.bar.set_postfix_str(
            f"loss {values.get('loss', math.nan):.3f}, learning rate {values['learning_rate']:.2e}, "
            f"{values['images_per_second']:.1f} images/s",
            refresh=False,
        )
