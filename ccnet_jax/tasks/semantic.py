"""Semantic segmentation: a class for every pixel."""

import functools

import jax
import jax.numpy as jnp

from ccnet_jax.common.errors import UserError
from ccnet_jax.common.labels import Classes
from ccnet_jax.config import config as configuration
from ccnet_jax.config.config import Config
from ccnet_jax.data import pipeline
from ccnet_jax.data.sources import Source
from ccnet_jax.data.stream import TrainBatches
from ccnet_jax.evaluation import metrics
from ccnet_jax.evaluation.evaluate import evaluate
from ccnet_jax.evaluation.prediction import predictor
from ccnet_jax.evaluation.test_mode import TestMode
from ccnet_jax.models.ccnet import CCNet
from ccnet_jax.models.config import build_network
from ccnet_jax.models.variables import Variables
from ccnet_jax.tasks.semantic_model import Model
from ccnet_jax.tasks.task import Result, Shapes, Task, Tester
from ccnet_jax.training.semantic_loss import make_loss
from ccnet_jax.training.step import Loss


def summary(config: Config, source: Source, split: str) -> str:
    """See `pipeline.summary`."""
    return pipeline.summary(config.data, source, split)


def check(config: Config, source: Source, batch_size: int) -> None:
    """Raise UserError where the config does not fit the classes or the first image."""
    if problems := config.loss.problems_for(len(source.classes)):
        raise UserError(configuration.in_one_message(problems))
    pipeline.check_first_image(source, config.data, batch_size)


def batches(config: Config, source: Source, start: int, process: int, processes: int) -> TrainBatches:
    """See `pipeline.train_batches`."""
    return pipeline.train_batches(
        source, config.data, config.batch_size, config.seed, start, process, processes
    )


def batch_names(config: Config, source: Source, step: int) -> list[str]:
    """See `pipeline.batch_names`."""
    return pipeline.batch_names(source, config.batch_size, config.seed, step)


def sizes(config: Config, source: Source) -> list[tuple[int, int]]:
    """That of crops, or of the first image."""
    return [config.data.crop or pipeline.first_size(source, config.data)]


def shapes(config: Config, size: tuple[int, int], count: int) -> Shapes:
    """Of a batch of images and labels."""
    labels = (count, *size)
    image = jax.ShapeDtypeStruct((*labels, 3), jnp.uint8)
    return {"image": image, "label": jax.ShapeDtypeStruct(labels, jnp.uint8)}


def network(config: Config, classes: int) -> CCNet:
    """CCNet as the config describes it."""
    return build_network(config.model, classes, config.dtype)


def loss(config: Config, network: CCNet) -> Loss:
    """The main and the auxiliary head's."""
    return make_loss(network, config.loss)


def tester(config: Config, network: CCNet, mode: TestMode) -> Tester:
    """What predicts every image in its own size, and counts pixels."""
    return functools.partial(evaluate, predictor(network, mode), batch_size=config.eval_batch_size)


def scores(result: Result) -> dict[str, float]:
    """mIoU, mean accuracy and pixel accuracy; nothing where no pixel is labelled."""
    labelled = any(map(any, result["confusion"]))
    return {name: result[name] for name in ("mIoU", "mAcc", "pixel_accuracy") if labelled}


def model(config: Config, network: CCNet, variables: Variables, classes: Classes) -> Model:
    """A network that is tested as the config says."""
    numbers = tuple(classes.numbers.tolist())
    return Model(variables, network, classes.names, classes.colours, numbers, config.test_mode())


TASK = Task(
    open=pipeline.open_source,
    open_unlabelled=pipeline.open_source,
    summary=summary,
    check=check,
    batches=batches,
    batch_names=batch_names,
    sizes=sizes,
    shapes=shapes,
    network=network,
    is_trained=lambda config: None,
    loss=loss,
    tester=tester,
    scores=scores,
    table=metrics.table,
    model=model,
    modes=True,
)
