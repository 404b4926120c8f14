"""Semantic segmentation: a class for every pixel."""

import collections
import functools
import pathlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from ccnet_jax import figures
from ccnet_jax.common.errors import UserError
from ccnet_jax.common.labels import VOID, Classes
from ccnet_jax.common.progress import progress_bar
from ccnet_jax.common.words import number_of
from ccnet_jax.config import config as configuration
from ccnet_jax.config.config import Config
from ccnet_jax.data import pipeline
from ccnet_jax.data.sizes import scaled_size
from ccnet_jax.data.sources import Source
from ccnet_jax.data.statistics import class_table, evenly_spread, sizes_text
from ccnet_jax.data.stream import TrainBatches
from ccnet_jax.evaluation import metrics
from ccnet_jax.evaluation.evaluate import evaluate
from ccnet_jax.evaluation.prediction import predictor
from ccnet_jax.evaluation.test_mode import TestMode
from ccnet_jax.models.ccnet import CCNet
from ccnet_jax.models.config import build_network
from ccnet_jax.models.variables import Variables
from ccnet_jax.tasks.semantic_model import Model
from ccnet_jax.tasks.task import Result, Shapes, Size, Task, Tester
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


def forward(config: Config, network: CCNet) -> Callable[..., jax.Array]:
    """The logits of whole images."""
    return lambda variables, images, size=None: network.apply(variables, images)[0]


def planned_sizes(config: Config, size: Size | None) -> tuple[Size, Size]:
    """Training's are crops or whole images; the data set's own are tested, or a crop where they differ."""
    trained = config.data.crop
    if trained is None:
        if size is None:
            raise UserError(
                f"config.data.crop is None, and the size of {config.data.name}'s images is only in its "
                "files; pass --config.data.crop=HEIGHT,WIDTH"
            )
        trained = scaled_size(size, config.data.resize, 1.0)
    return trained, size or trained


def preview(config: Config, source: Source, count: int, counted: int, output: pathlib.Path) -> None:
    """Print sizes and how often each class occurs, and draw the first crops of training with their labels.

    A data set that has a summary of its own has said that already.
    """
    if not pipeline.has_summary(config.data):
        pixels, sizes, images = statistics(source, counted)
        print(f"of {config.data.train_split}, {number_of(images, 'image')} counted (--counted):")
        print(sizes_text(sizes))
        print(class_table(source.classes, pixels))

    crops = first_crops(source, config, count)
    sheet = figures.contact_sheet(crops["image"], crops["label"], source.classes, source.palette)
    figures.save_image(output, sheet)
    print(f"the first {len(crops['image'])} crops of training are in {output}")


def first_crops(source: Source, config: Config, count: int) -> dict[str, np.ndarray]:
    """The first samples of training, {"image": uint8 [count, h, w, 3], "label": uint8 [count, h, w]}."""
    batches, made = [], 0
    for batch in pipeline.train_batches(source, config.data, config.batch_size, config.seed):
        batches.append(batch)
        made += config.batch_size
        if made >= count:
            break
    return {key: np.concatenate([batch[key] for batch in batches])[:count] for key in batches[0]}


def statistics(source: Source, limit: int) -> tuple[np.ndarray, collections.Counter[tuple[int, int]], int]:
    """Pixels of each class and of void [classes + 1], {(height, width): images}, images counted.

    Args:
      source: the images.
      limit: how many to count, evenly spread; 0 is all.
    """
    images = evenly_spread(len(source), limit)
    pixels = np.zeros(256, np.int64)
    sizes: collections.Counter[tuple[int, int]] = collections.Counter()
    for index in progress_bar(images, unit="image", leave=False):
        label = source[index]["label"]
        sizes[label.shape] += 1
        pixels += np.bincount(label.ravel(), minlength=256)
    classes = len(source.classes)
    return np.append(pixels[:classes], pixels[VOID]), sizes, len(images)


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
    forward=forward,
    planned_sizes=planned_sizes,
    export_shape=lambda config, asked: asked,
    preview=preview,
    labels_pixels=Model.labels_pixels,
    does=Model.does,
)
