"""Look at a config's data before training on it.

    python -m ccnet_jax.data.preview --config NAME[:VARIANT] [--output FILE] [--config.KEY=VALUE]

Draws the first crops that training will see, augmented, each beside itself with its labels over it, and a
legend; and prints how many pictures each split has, their sizes and how often each class occurs.
"""

import collections
import pathlib

import numpy as np

from ccnet_jax import command_line, figures
from ccnet_jax.config import Config
from ccnet_jax.data import pipeline
from ccnet_jax.data.sources import Source
from ccnet_jax.data.statistics import class_table, sizes_text
from ccnet_jax.errors import UserError
from ccnet_jax.labels import VOID
from ccnet_jax.progress import progress_bar


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
    """Pixels of each class and of void [classes + 1], {(height, width): pictures}, pictures counted.

    Args:
      source: the pictures.
      limit: how many to count, evenly spread; 0 is all.
    """
    count = min(limit, len(source)) if limit else len(source)
    pixels = np.zeros(256, np.int64)
    sizes: collections.Counter[tuple[int, int]] = collections.Counter()
    for index in progress_bar(np.linspace(0, len(source) - 1, count).astype(int), unit="image", leave=False):
        label = source[int(index)]["label"]
        sizes[label.shape] += 1
        pixels += np.bincount(label.ravel(), minlength=256)
    classes = len(source.classes)
    return np.append(pixels[:classes], pixels[VOID]), sizes, count


def not_negative(text: str) -> int:
    """A whole number of at least 0. Raises ArgumentTypeError where the text is none."""
    return 0 if text == "0" else command_line.positive(text)


def main() -> None:
    """The program."""
    arguments = flags().parsed()
    config = command_line.config_of(arguments)
    if config.task != "semantic":
        raise UserError(
            f"preview shows labels of pixels, and config.task is {config.task!r}; look at pictures/ in a run "
            "with --config.eval_every"
        )
    data = config.data
    source = pipeline.open_source(data, data.train_split)
    print(pipeline.summary(data, source, data.train_split))
    evaluated = pipeline.open_source(data, data.eval_split)
    print(pipeline.summary(data, evaluated, data.eval_split))

    if not pipeline.has_summary(data):
        pixels, sizes, count = statistics(source, arguments.counted)
        print(f"of {data.train_split}, {count} pictures counted (--counted):")
        print(sizes_text(sizes))
        print(class_table(source.classes, pixels))

    crops = first_crops(source, config, arguments.crops)
    sheet = figures.contact_sheet(crops["image"], crops["label"], source.classes, source.palette)
    output = pathlib.Path(arguments.output).expanduser()
    figures.save_picture(output, sheet)
    print(f"the first {len(crops['image'])} crops of training are in {output}")


def flags() -> command_line.Parser:
    """The command line."""
    parser = command_line.Parser("ccnet_jax.data.preview", __doc__)
    parser.add_config()
    parser.add_argument("--output", default="preview.png", help="PNG file to write (default: %(default)s)")
    parser.add_argument(
        "--crops", type=command_line.positive, default=12, help="crops to draw (default: %(default)s)"
    )
    parser.add_argument(
        "--counted",
        type=not_negative,
        default=200,
        help="training pictures to count classes in, evenly spread; 0 is all (default: %(default)s)",
    )
    return parser


if __name__ == "__main__":
    command_line.run(main)
