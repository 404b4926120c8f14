"""Writing checkpoints."""

from typing import Any

from ccnet_jax.common import devices
from ccnet_jax.engine.engine import Callback


class Save(Callback):
    """A checkpoint where one is due: by steps, by minutes, before what takes long, at a stop, at the end."""

    def after_step(self, step: int, state: Any) -> None:
        """Write it, while training goes on."""
        engine, config = self.engine, self.engine.config
        engine.attempt(step, engine.checkpoints.check)
        is_last = step == config.steps
        due = is_last or step % config.checkpoint_every == 0 or engine.needs_checkpoint(step)
        if due or engine.stopped_by or self._is_late(step):
            engine.meter.wait()
            engine.save(step, needed=is_last or bool(engine.stopped_by))

    def _is_late(self, step: int) -> bool:
        """Whether it is time for one by the clock, which hosts ask the first one for at each log."""
        is_late = self.engine.save_timer.is_late
        if self.engine.is_alone:
            return is_late()
        return self.engine.is_due(self.engine.config.log_every, step) and devices.as_first(is_late())
