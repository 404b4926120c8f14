"""What a config says of the network's inputs and outputs, without the files of its data set."""

from ccnet_jax.common.errors import UserError
from ccnet_jax.config.config import Config
from ccnet_jax.data.datasets import DATASETS
from ccnet_jax.data.datasets.coco import COCO_CLASSES
from ccnet_jax.tasks import TASKS

WANTED = "HEIGHTxWIDTH in pixels, as 1024x2048"


def class_count(config: Config) -> int:
    """The number of classes. Raises UserError where only the data set's files tell it."""
    known = config.data.data_set
    if known is not None and known.classes is not None:
        count = len(known.classes.names)
    elif config.data.classes is not None:
        count = len(config.data.classes)
    elif known is DATASETS["coco"]:  # its files may be another data set's, whose classes nobody named
        count = len(COCO_CLASSES)
    else:
        raise UserError(
            f"the number of classes of {config.data.name} is only in its files; pass the classes as "
            "--config.data.classes=NAME,NAME,..."
        )
    if problems := config.loss.problems_for(count):
        raise UserError(problems[0])
    return count


def training_size(config: Config) -> tuple[int, int]:
    """(height, width) of the images in a batch. Raises UserError where the config does not tell."""
    return _sizes(config)[0]


def image_size(config: Config) -> tuple[int, int]:
    """(height, width) of an image to test: the data set's, or that of a crop where its images differ.

    Raises UserError where the config does not tell.
    """
    return _sizes(config)[1]


def _sizes(config: Config) -> tuple[tuple[int, int], tuple[int, int]]:
    known = config.data.data_set
    return TASKS[config.task].planned_sizes(config, None if known is None else known.size)


def size_of(text: str) -> tuple[int, int]:
    """ "1024x2048" as (1024, 2048). Raises UserError where the text is none."""
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise UserError(f"--inference={text} must be {WANTED}")
    return int(height), int(width)
