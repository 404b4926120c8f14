"""Look at a config's data before training on it.

    python -m ccnet_jax.data.preview --config configs/NAME.py[:VARIANT] [--output FILE] [--config.KEY=VALUE]

Draws the first crops that training will really see, augmented, each beside itself with its labels over it,
and a legend; and prints how many pictures each split has, their sizes and how often each class occurs.
"""

import collections
import pathlib

import ml_collections
import numpy as np
import tqdm
from absl import flags
from ml_collections import config_flags

from ccnet_jax import config as configuration
from ccnet_jax import errors, visualize
from ccnet_jax.data import pipeline
from ccnet_jax.data.sources import Source
from ccnet_jax.errors import UserError


def first_crops(source: Source, config: ml_collections.ConfigDict, count: int) -> dict[str, np.ndarray]:
    """The first samples of training, {"image": uint8 [count, h, w, 3], "label": uint8 [count, h, w]}."""
    batches, made = [], 0
    for batch in pipeline.train_batches(source, config.data, config.batch_size, config.seed):
        batches.append(batch)
        made += config.batch_size
        if made >= count:
            break
    return {key: np.concatenate([batch[key] for batch in batches])[:count] for key in batches[0]}


def statistics(source: Source, limit: int) -> tuple[np.ndarray, collections.Counter, int]:
    """Pixels of each class and of void [classes + 1], {(height, width): pictures}, pictures counted.

    Args:
      source: the pictures.
      limit: how many to count, evenly spread; 0 is all.
    """
    count = min(limit, len(source)) if limit else len(source)
    pixels, sizes = np.zeros(256, np.int64), collections.Counter()
    for index in tqdm.tqdm(np.linspace(0, len(source) - 1, count).astype(int), unit="image", leave=False):
        label = source[int(index)]["label"]
        sizes[label.shape] += 1
        pixels += np.bincount(label.ravel(), minlength=256)
    classes = len(source.classes)
    return np.append(pixels[:classes], pixels[255]), sizes, count


def summary(source: Source, pixels: np.ndarray, sizes: collections.Counter) -> str:
    """Sizes, the commonest first, and the share of each class among the labelled pixels, as text."""
    lines = ["sizes (width x height):"]
    lines += [f"  {width} x {height}  {number}" for (height, width), number in sizes.most_common(8)]
    if len(sizes) > 8:
        heights, widths = zip(*sizes, strict=True)
        lines.append(
            f"  and {len(sizes) - 8} more, from {min(widths)} to {max(widths)} wide and {min(heights)} to "
            f"{max(heights)} high"
        )
    wide = max(map(len, (*source.classes, "class")))
    lines.append(f"{'class':{wide}}  % of labelled pixels")
    labelled = max(pixels[:-1].sum(), 1)
    for name, number in zip(source.classes, pixels[:-1], strict=True):
        share = 100 * number / labelled
        lines.append(f"{name:{wide}}  {share:7.3f}" if number else f"{name:{wide}}    never")
    lines.append(f"void: {100 * pixels[-1] / max(pixels.sum(), 1):.1f} % of all pixels")
    return "\n".join(lines)


def main() -> None:
    """The program."""
    config = flags.FLAGS.config
    if config is None:
        raise UserError("pass --config configs/NAME.py; --help lists what else there is")
    configuration.check(config)
    source = pipeline.open_source(config.data, config.data.train_split)
    print(f"{config.data.name}, {config.data.train_split}: {len(source)} pictures")
    evaluated = pipeline.open_source(config.data, config.data.eval_split)
    print(f"{config.data.name}, {config.data.eval_split}: {len(evaluated)} pictures")

    pixels, sizes, count = statistics(source, flags.FLAGS.counted)
    print(f"of {config.data.train_split}, {count} pictures counted (--counted):")
    print(summary(source, pixels, sizes))

    crops = first_crops(source, config, flags.FLAGS.crops)
    sheet = visualize.contact_sheet(crops["image"], crops["label"], source.classes, source.palette)
    output = pathlib.Path(flags.FLAGS.output)
    visualize.save_picture(output, sheet)
    print(f"the first {len(crops['image'])} crops of training are in {output}")


if __name__ == "__main__":  # the flags too: who imports this has a --config of their own
    config_flags.DEFINE_config_file("config", help_string="configs/NAME.py[:VARIANT]")
    flags.DEFINE_string("output", "preview.png", "PNG file to write")
    flags.DEFINE_integer("crops", 12, "crops to draw", lower_bound=1)
    flags.DEFINE_integer(
        "counted", 200, "training pictures to count classes in, evenly spread; 0 is all", lower_bound=0
    )
    errors.run(main)
