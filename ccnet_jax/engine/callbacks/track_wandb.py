"""Weights & Biases."""

import os
from collections.abc import Mapping

from ccnet_jax.engine.callbacks.tracker import Tracker


class WeightsAndBiases(Tracker):
    """Logs to wandb; with WANDB_MODE=offline into the run's folder, for `wandb sync`."""

    package = "wandb"

    def start(self, known: str | None) -> str:
        """`wandb.init`."""
        import wandb  # not above: optional, and it takes a second

        run = self.engine.run
        self._wandb = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "ccnet_jax"),
            dir=run.path,
            id=known,
            name=run.path.name,
            config=dict(self._settings),
            allow_val_change=True,  # keys with which a run may go on
            resume="allow",
            settings=wandb.Settings(silent=True, console="off"),
        )
        # not wandb's own step, which must not go back: after a kill, some steps are made again
        self._wandb.define_metric("*", step_metric="step")
        return str(self._wandb.id)

    def send(self, step: int, values: Mapping[str, float]) -> None:
        """`Run.log`."""
        self._wandb.log({"step": step, **values})

    def finish(self, is_whole: bool) -> None:
        """`Run.finish`."""
        self._wandb.finish(exit_code=0 if is_whole else 1)
