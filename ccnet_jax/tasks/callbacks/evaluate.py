"""Scoring the weights while they are trained."""

from typing import Any

from ccnet_jax.common.log import say
from ccnet_jax.config.config import Config
from ccnet_jax.engine.engine import Callback, Engine
from ccnet_jax.engine.metric_log import is_evaluated
from ccnet_jax.tasks.messages import explain_memory_errors
from ccnet_jax.tasks.task import Task, Tester

_REMEDY = "lower --config.eval_batch_size"


class Evaluate(Callback):
    """Every `config.eval_every` steps, the scores on the validation split; the best weights are kept.

    Args:
      engine: of the run.
      config: of the run.
      task: of the config.
      test: what evaluates the network.
      source: the images of the validation split.
    """

    def __init__(self, engine: Engine, config: Config, task: Task, test: Tester, source: Any):
        super().__init__(engine)
        self._config, self._task, self._test, self._source = config, task, test, source

    def begin(self, state: Any) -> None:
        """Where a run was stopped before its evaluation, make up for it."""
        start, split = self.engine.start, self._config.data.eval_split
        if start and self.is_due(start) and not is_evaluated(self.engine.run, start, split):
            self._evaluate(start)

    def is_due(self, step: int) -> bool:
        """Whether it evaluates after this step."""
        return self.engine.is_due(self._config.eval_every, step)

    def after_step(self, step: int, state: Any) -> None:
        """Evaluate, all else being saved."""
        if self.is_due(step):
            self._evaluate(step)

    def _evaluate(self, step: int) -> None:
        engine, split = self.engine, self._config.data.eval_split
        between = engine.stop.check if engine.is_alone else _do_nothing
        engine.stop.nothing_to_save = engine.checkpoints.finish
        variables, images = engine.variables(), engine.run.images(split)
        with engine.clock.pause(), explain_memory_errors("validation", _REMEDY):
            result = self._test(variables, self._source, drawings=images, between=between)
        scores = self._task.scores(result)
        if scores:
            name, score = next(iter(scores.items()))
            say(f"step {step}: {split} {name} {100 * score:.2f} %")
            engine.attempt(step, lambda: engine.checkpoints.save_best(step, variables, score))
            engine.attempt(step, engine.checkpoints.finish)
        # last, for it says that the evaluation need not be made again
        noted = scores or {"images": result["images"]}
        engine.write_values(step, {f"{split}/{name}": value for name, value in noted.items()})


def _do_nothing() -> None:
    """Hosts evaluate together, to the end."""
