"""Look at a config's data before training on it.

    python -m ccnet_jax.preview --config NAME[:VARIANT] [--output FILE] [--config.KEY=VALUE]

Draws the first augmented crops of training, each beside its labels, with a legend. Prints the number of
images of each split, their sizes, and how often each class occurs. For instance segmentation it draws
images with their objects, and counts the objects.
"""

import collections
import pathlib
from collections.abc import Sequence

import numpy as np

from ccnet_jax import figures
from ccnet_jax.common import outputs
from ccnet_jax.common.labels import VOID
from ccnet_jax.common.progress import progress_bar
from ccnet_jax.common.words import number_of
from ccnet_jax.config import command_line
from ccnet_jax.config.config import Config
from ccnet_jax.data import pipeline
from ccnet_jax.data.instances import InstanceSource
from ccnet_jax.data.sources import Source
from ccnet_jax.data.statistics import class_table, evenly_spread, sizes_text
from ccnet_jax.evaluation.instance_scores import paste_mask
from ccnet_jax.tasks import TASKS


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


def preview_objects(
    config: Config, source: InstanceSource, count: int, counted: int, output: pathlib.Path
) -> None:
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
    TASKS[config.task].check(config, source, config.batch_size)
    images = evenly_spread(len(source), counted)
    found = np.zeros(len(source.classes), np.int64)
    for index in progress_bar(images, unit="image", leave=False):
        found += np.bincount(source.objects(index).classes, minlength=len(found))
    print(f"of {config.data.train_split}, {number_of(len(images), 'image')} counted (--counted):")
    wide = max(map(len, source.classes))
    print("\n".join(f"  {name:{wide}} {n:8,} objects" for name, n in zip(source.classes, found, strict=True)))

    drawn: list[np.ndarray] = []
    for batch in TASKS[config.task].batches(config, source, 0, 0, 1):
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


def not_negative(text: str) -> int:
    """A whole number of at least 0. Raises ArgumentTypeError where the text is none."""
    return 0 if text == "0" else command_line.positive(text)


def main(command: Sequence[str] | None = None) -> None:
    """The program."""
    arguments = flags().parse(command)
    config = command_line.config_of(arguments)
    data, task = config.data, TASKS[config.task]
    output = pathlib.Path(arguments.output).expanduser()
    source = task.open(data, data.train_split)
    outputs.check_file("--output", output, pipeline.files_of_all_splits(data, source), (".png",))
    print(task.summary(config, source, data.train_split))
    print(task.summary(config, task.open(data, data.eval_split), data.eval_split))
    if config.task == "instance":
        preview_objects(config, source, arguments.crops, arguments.counted, output)
        return

    if not pipeline.has_summary(data):
        pixels, sizes, count = statistics(source, arguments.counted)
        print(f"of {data.train_split}, {number_of(count, 'image')} counted (--counted):")
        print(sizes_text(sizes))
        print(class_table(source.classes, pixels))

    crops = first_crops(source, config, arguments.crops)
    sheet = figures.contact_sheet(crops["image"], crops["label"], source.classes, source.palette)
    figures.save_image(output, sheet)
    print(f"the first {len(crops['image'])} crops of training are in {output}")


def flags() -> command_line.Parser:
    """The command line."""
    parser = command_line.Parser("ccnet_jax.preview", __doc__)
    parser.add_config()
    parser.add_argument("--output", default="preview.png", help="PNG file to write (default: %(default)s)")
    parser.add_argument(
        "--crops", type=command_line.positive, default=12, help="crops to draw (default: %(default)s)"
    )
    parser.add_argument(
        "--counted",
        type=not_negative,
        default=200,
        help="training images to count classes in, evenly spread; 0 is all (default: %(default)s)",
    )
    return parser


if __name__ == "__main__":
    command_line.run(main)
