"""What happens beside the steps of a training: the list, and a class and a file for what knows the task."""

import dataclasses
from collections.abc import Callable
from typing import Any

import optax

from ccnet_jax.config.config import Config, flat, to_dict
from ccnet_jax.engine.callbacks.average import Average
from ccnet_jax.engine.callbacks.log import Log
from ccnet_jax.engine.callbacks.save import Save
from ccnet_jax.engine.callbacks.stop import Stop
from ccnet_jax.engine.callbacks.track_mlflow import MLflow
from ccnet_jax.engine.callbacks.track_wandb import WeightsAndBiases
from ccnet_jax.engine.callbacks.tracker import Tracker
from ccnet_jax.engine.engine import Callback, Engine
from ccnet_jax.tasks.callbacks.draw import Draw
from ccnet_jax.tasks.callbacks.evaluate import Evaluate
from ccnet_jax.tasks.callbacks.remark import Remark
from ccnet_jax.tasks.task import Task, Tester


@dataclasses.dataclass(frozen=True)
class Training:
    """What a callback may need to know.

    Attributes:
      engine: of the run.
      config: of the run.
      task: of the config.
      test: what evaluates the network.
      schedule: number of steps that were made -> the learning rate of the next one.
      train_source: the images that are trained on.
      eval_source: those of the validation split, None where nothing is validated.
    """

    engine: Engine
    config: Config
    task: Task
    test: Tester
    schedule: optax.Schedule
    train_source: Any
    eval_source: Any


TRACKERS: dict[str, type[Tracker]] = {"mlflow": MLflow, "wandb": WeightsAndBiases}  # of `config.tracker`


def _tracker(training: Training) -> Callback | None:
    config = training.config
    return (
        None if config.tracker is None else TRACKERS[config.tracker](training.engine, flat(to_dict(config)))
    )


def _average(training: Training) -> Callback | None:
    decay = training.config.average_decay
    return None if decay is None else Average(training.engine, decay)


def _evaluate(training: Training) -> Callback | None:
    known = training.engine, training.config, training.task, training.test
    return None if training.eval_source is None else Evaluate(*known, training.eval_source)


def _draw(training: Training) -> Callback | None:  # where no evaluation does
    known = training.engine, training.config, training.test
    return Draw(*known, training.train_source) if training.eval_source is None else None


# In the order in which they are called after a step. None: not in this training.
CALLBACKS: dict[str, Callable[[Training], Callback | None]] = {
    "tracker": _tracker,
    "average": _average,
    "log": lambda training: Log(training.engine, training.schedule),
    "remark": lambda training: Remark(training.engine, training.config, training.task, training.train_source),
    "save": lambda training: Save(training.engine),
    "stop": lambda training: Stop(training.engine),
    "evaluate": _evaluate,
    "draw": _draw,
}


def callbacks(training: Training) -> list[Callback]:
    """Those of a training, in their order."""
    found = [make(training) for make in CALLBACKS.values()]
    return [callback for callback in found if callback is not None]
