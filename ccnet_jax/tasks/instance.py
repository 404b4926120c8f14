"""Instance segmentation: a box, a class and a mask for every object. Paper: section 4.5, Table 7."""

import functools
import pathlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from ccnet_jax import figures
from ccnet_jax.common.errors import UserError
from ccnet_jax.common.labels import Classes
from ccnet_jax.common.progress import progress_bar
from ccnet_jax.common.words import number_of
from ccnet_jax.config.config import Config
from ccnet_jax.data import instance_batches
from ccnet_jax.data.config import DataConfig, does_not_fit_memory
from ccnet_jax.data.datasets import DATASETS
from ccnet_jax.data.fitting import as_opened
from ccnet_jax.data.instance_batches import MULTIPLE, canvases
from ccnet_jax.data.instances import MASK_CELLS, InstanceSource
from ccnet_jax.data.statistics import evenly_spread
from ccnet_jax.data.stream import TrainBatches
from ccnet_jax.evaluation.detector import detect, detector
from ccnet_jax.evaluation.evaluate_instances import evaluate_instances
from ccnet_jax.evaluation.instance_scores import KINDS, paste_mask, table
from ccnet_jax.evaluation.test_mode import TestMode
from ccnet_jax.models.detection.config import build_mask_rcnn
from ccnet_jax.models.detection.mask_rcnn import Detections, MaskRCNN, is_trained_where_frozen
from ccnet_jax.models.variables import Variables
from ccnet_jax.tasks.instance_model import InstanceModel
from ccnet_jax.tasks.task import Result, Shapes, Size, Task, Tester
from ccnet_jax.training.instance_losses import make_instance_loss
from ccnet_jax.training.optimizers import IsTrained
from ccnet_jax.training.step import Loss

_COUNTED = 50  # images whose objects are counted where the data set cannot tell their number at once


def open_source(data: DataConfig, split: str) -> InstanceSource:
    """The images of a split. Raises UserError naming what is missing or wrong."""
    return _open_split(data, split, labelled=True)


def open_unlabelled(data: DataConfig, split: str) -> InstanceSource:
    """As `open_source`, also of a split that says nothing of objects."""
    return _open_split(data, split, labelled=False)


def _open_split(data: DataConfig, split: str, labelled: bool) -> InstanceSource:
    if problems := data.unknown_name():
        raise UserError(problems[0])
    if "+" in split:
        raise UserError(f"{data.name} cannot join the splits {split}; name one")
    data_set = DATASETS[data.name]
    opening = data_set.open if labelled else data_set.open_unlabelled or data_set.open
    source = opening(data.to_open(split), split)
    if not len(source):
        raise UserError(f"split {split} of {data.name} has no images; correct data.dir or the name")
    return source


def summary(config: Config, source: InstanceSource, split: str) -> str:
    """Images, objects, what the data set says of its files, and of a training split what is not seen of it.

    Where the data set cannot tell the number of objects at once, `_COUNTED` images are counted.
    """
    counts = [source.count(i) for i in range(len(source))]
    known = [count for count in counts if count is not None]
    text = f"{config.data.name}, {split}: {number_of(len(source), 'image')}"
    all_known, among = len(known) == len(counts), ""
    if all_known:
        text += f", {number_of(sum(known), 'object')} of {number_of(len(source.classes), 'class', 'classes')}"
    lines = [text]
    if own_summary := DATASETS[config.data.name].summary:
        lines += own_summary(as_opened(source)).splitlines()
    if split == config.data.train_split:
        if not all_known:
            known = [_drawn_count(source, i) for i in evenly_spread(len(source), _COUNTED)]
            among = f"of {number_of(len(known), 'image')} counted, "
        lines += [among + message for message in _not_trained_on(known, config.detection.objects)]
    return "\n  ".join(lines)


def _not_trained_on(counts: list[int], most: int) -> list[str]:
    """Messages about what training does not see, where it sees at most `most` objects of an image."""
    found = []
    if empty := counts.count(0):
        words = "image without an object is", "images without an object are"
        found.append(f"{number_of(empty, *words)} not trained on")
    if crowded := [count for count in counts if count > most]:
        left_out = number_of(sum(crowded) - most * len(crowded), "object is", "objects are")
        found.append(
            f"{number_of(len(crowded), 'image has', 'images have')} more than "
            f"{number_of(most, 'object')}, the largest of which are trained on: {left_out} left out; "
            "raise config.detection.objects"
        )
    return found


def _drawn_count(source: InstanceSource, index: int) -> int:
    """The number of objects of an image, without crowds."""
    return int((~source.objects(index).crowd).sum())


def check(config: Config, source: InstanceSource, batch_size: int) -> None:
    """Raise UserError where there is nothing to train on, or a batch does not fit into memory."""
    if all(source.count(i) == 0 for i in range(len(source))):
        raise UserError(
            f"split {config.data.train_split} of {config.data.name} has no objects to train on; "
            "choose another"
        )
    if problem := does_not_fit_memory(batch_size, sizes(config, source)[0]):
        raise UserError(problem)


def batches(config: Config, source: InstanceSource, start: int, process: int, processes: int) -> TrainBatches:
    """See `instance_batches.train_batches`."""
    return instance_batches.train_batches(
        source,
        config.data,
        config.detection.objects,
        config.batch_size,
        config.seed,
        start,
        process,
        processes,
    )


def batch_names(config: Config, source: InstanceSource, step: int) -> list[str]:
    """See `instance_batches.batch_names`."""
    return instance_batches.batch_names(source, config.data, config.batch_size, config.seed, step)


def sizes(config: Config, source: InstanceSource) -> list[tuple[int, int]]:
    """Those of the canvases."""
    return instance_batches.training_canvases(source, config.data)


def shapes(config: Config, size: tuple[int, int], count: int) -> Shapes:
    """Of a batch of images and their objects."""
    objects = (count, config.detection.objects)
    shape = jax.ShapeDtypeStruct
    return {
        "image": shape((count, *size, 3), jnp.uint8),
        "size": shape((count, 2), jnp.int32),
        "boxes": shape((*objects, 4), jnp.float32),
        "classes": shape(objects, jnp.int32),
        "used": shape(objects, jnp.bool),
        "masks": shape((*objects, MASK_CELLS, MASK_CELLS), jnp.uint8),
    }


def network(config: Config, classes: int) -> MaskRCNN:
    """Mask R-CNN as the config describes it."""
    return build_mask_rcnn(config.model, config.detection, classes, config.dtype)


def is_trained(config: Config) -> IsTrained | None:
    """Without the parameters that `detection.frozen` keeps."""
    return is_trained_where_frozen if config.detection.frozen else None


def loss(config: Config, network: MaskRCNN) -> Loss:
    """The sum of five."""
    return make_instance_loss(network, config.detection)


def tester(config: Config, network: MaskRCNN, mode: TestMode) -> Tester:
    """What finds the objects of every image; there is one mode."""
    return functools.partial(
        evaluate_instances,
        detector(network, config.detection),
        data=config.data,
        batch_size=config.eval_batch_size,
    )


def scores(result: Result) -> dict[str, float]:
    """The AP of masks, then that of boxes; nothing where the images have no objects."""
    found = {f"{kind}_{name}": result[kind][name] for kind in reversed(KINDS) for name in ("AP", "AP50")}
    return {name: value for name, value in found.items() if value is not None}


def model(config: Config, network: MaskRCNN, variables: Variables, classes: Classes) -> InstanceModel:
    """A network with what it needs to find objects in images of any size."""
    return InstanceModel(variables, network, classes.names, classes.colours, config.data, config.detection)


def forward(config: Config, network: MaskRCNN) -> Callable[..., Detections]:
    """The detections in images on a canvas."""
    return functools.partial(detect, network, config.detection)


def planned_sizes(config: Config, size: Size | None) -> tuple[Size, Size]:
    """That of a canvas, in training and in testing; one that lies where images differ."""
    if config.data.resize is None and size is None:
        raise UserError(
            f"config.data.resize is None, and the size of {config.data.name}'s images is only in its "
            "files; pass --config.data.resize=LONG,SHORT"
        )
    short, long = sorted(config.data.resize or (1, 1))
    canvas = canvases(config.data, [size or (short, long)])[0]
    return canvas, canvas


def export_shape(config: Config, asked: dict[str, int | None]) -> dict[str, int | None]:
    """By default one image on the canvas that lies."""
    known = [] if config.data.resize is None else canvases(config.data, [(1, 2), (2, 1)])
    words = " or ".join(f"{height},{width}" for height, width in known) or f"H,W in multiples of {MULTIPLE}"
    landscape = dict(zip(("height", "width"), known[0], strict=True)) if known else {}
    shape: dict[str, int | None] = {"batch": 1, "height": None, "width": None} | landscape | asked
    height, width = shape["height"], shape["width"]
    fits = (
        (height, width) in known
        if known
        else height and width and not (height % MULTIPLE or width % MULTIPLE)
    )
    if not fits:
        raise UserError(f"this network finds instances on a canvas of one size: pass --size {words}")
    if shape["batch"] is None:
        raise UserError("this network finds instances in a batch of one size: pass --batch N")
    return shape


def preview(config: Config, source: InstanceSource, count: int, counted: int, output: pathlib.Path) -> None:
    """Print how many objects the classes have, and draw the first images of training with their objects.

    Args:
      config: of instance segmentation.
      source: images to train on.
      count: images to draw.
      counted: images whose objects are counted by class, evenly spread; 0 is all.
      output: PNG file.

    Raises:
      UserError: there is no object to train on.
    """
    check(config, source, config.batch_size)
    images = evenly_spread(len(source), counted)
    found = np.zeros(len(source.classes), np.int64)
    for index in progress_bar(images, unit="image", leave=False):
        found += np.bincount(source.objects(index).classes, minlength=len(found))
    print(f"of {config.data.train_split}, {number_of(len(images), 'image')} counted (--counted):")
    wide = max(map(len, source.classes))
    print("\n".join(f"  {name:{wide}} {n:8,} objects" for name, n in zip(source.classes, found, strict=True)))

    drawn: list[np.ndarray] = []
    for batch in batches(config, source, 0, 0, 1):
        drawn += [drawn_objects(batch, row, source) for row in range(config.batch_size)]
        if len(drawn) >= count:
            break
    sheet = figures.image_sheet(drawn[:count], f"{number_of(len(drawn[:count]), 'image')} of training")
    figures.save_image(output, sheet)
    print(f"the first {number_of(len(drawn[:count]), 'image')} of training: {output}")


def drawn_objects(batch: dict[str, np.ndarray], row: int, source: InstanceSource) -> np.ndarray:
    """One image of a batch with its objects as training sees them."""
    used, image = batch["used"][row], batch["image"][row]
    boxes, labels = batch["boxes"][row][used], batch["classes"][row][used]
    fractions = batch["masks"][row][used].astype(np.float32) / 255
    masks = [paste_mask(mask, box, image.shape[:2]) for mask, box in zip(fractions, boxes, strict=True)]
    whole = np.array(masks, np.uint8).reshape(-1, *image.shape[:2])
    return figures.instance_overlay(image, boxes, labels, whole, source.classes, source.palette)


TASK = Task(
    open=open_source,
    open_unlabelled=open_unlabelled,
    summary=summary,
    check=check,
    batches=batches,
    batch_names=batch_names,
    sizes=sizes,
    shapes=shapes,
    network=network,
    is_trained=is_trained,
    loss=loss,
    tester=tester,
    scores=scores,
    table=table,
    model=model,
    forward=forward,
    planned_sizes=planned_sizes,
    export_shape=export_shape,
    preview=preview,
    labels_pixels=InstanceModel.labels_pixels,
    does=InstanceModel.does,
)
