"""What happens beside the steps of a training: the list, and a class and a file for what knows the task."""

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

TRACKERS: dict[str, type[Tracker]] = {"mlflow": MLflow, "wandb": WeightsAndBiases}  # of `config.tracker`


def callbacks(
    engine: Engine,
    config: Config,
    task: Task,
    test: Tester,
    schedule: optax.Schedule,
    train_source: Any,
    eval_source: Any,
) -> list[Callback]:
    """All of them, in the order in which they are called after a step.

    Args:
      engine: of the run.
      config: of the run.
      task: of the config.
      test: what evaluates the network.
      schedule: number of steps that were made -> the learning rate of the next one.
      train_source: the images that are trained on.
      eval_source: those of the validation split, None where nothing is validated.
    """
    return [
        *([TRACKERS[config.tracker](engine, flat(to_dict(config)))] if config.tracker is not None else []),
        *([Average(engine, config.average_decay)] if config.average_decay is not None else []),
        Log(engine, schedule),
        Remark(engine, config, task, train_source),
        Save(engine),
        Stop(engine),
        Evaluate(engine, config, task, test, eval_source)
        if eval_source is not None
        else Draw(engine, config, test, train_source),  # as no evaluation does
    ]
