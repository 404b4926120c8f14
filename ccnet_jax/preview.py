"""Look at a config's data before training on it.

    python -m ccnet_jax.preview --config NAME[:VARIANT] [--output FILE] [--config.KEY=VALUE]

Draws the first augmented crops of training, each beside its labels, with a legend. Prints the number of
images of each split, their sizes, and how often each class occurs. For instance segmentation it draws
images with their objects, and counts the objects.
"""

import pathlib
from collections.abc import Sequence

from ccnet_jax.common import outputs
from ccnet_jax.common.fields import LARGEST_WHOLE
from ccnet_jax.config import command_line
from ccnet_jax.data import pipeline
from ccnet_jax.tasks import TASKS


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
    task.preview(config, source, arguments.crops, arguments.counted, output)


def flags() -> command_line.Parser:
    """The command line."""
    parser = command_line.Parser("ccnet_jax.preview", __doc__)
    parser.add_config()
    parser.add_argument("--output", default="preview.png", help="PNG file to write (default: %(default)s)")
    parser.add_argument(
        "--crops", type=command_line.whole(1, 1000), default=12, help="crops to draw (default: %(default)s)"
    )
    parser.add_argument(
        "--counted",
        type=command_line.whole(0, LARGEST_WHOLE),
        default=200,
        help="training images to count classes in, evenly spread; 0 is all (default: %(default)s)",
    )
    return parser


if __name__ == "__main__":
    command_line.run(main)
