"""What a config says of the network's inputs and outputs, without the files of its data set."""

from ccnet_jax.common.errors import UserError
from ccnet_jax.config.config import Config
from ccnet_jax.data.datasets import DATASETS
from ccnet_jax.data.datasets.coco import COCO_CLASSES
from ccnet_jax.data.instance_batches import canvases
from ccnet_jax.data.sizes import scaled_size
from ccnet_jax.data.sources import DataSet

WANTED = "HEIGHTxWIDTH in pixels, as 1024x2048"


def class_count(config: Config) -> int:
    """The number of classes. Raises UserError where only the data set's files tell it."""
    known = _data_set(config)
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
    known = _data_set(config)
    if config.task == "instance":
        if config.data.resize is None and (known is None or known.size is None):
            raise UserError(
                f"config.data.resize is None, and the size of {config.data.name}'s images is only in its "
                "files; pass --config.data.resize=LONG,SHORT"
            )
        sides = sorted(config.data.resize or (1, 1))
        return canvases(config.data, [known.size if known and known.size else (sides[0], sides[1])])[0]
    if config.data.crop is not None:
        return config.data.crop
    if known is None or known.size is None:
        raise UserError(
            f"config.data.crop is None, and the size of {config.data.name}'s images is only in its files; "
            "pass --config.data.crop=HEIGHT,WIDTH"
        )
    return scaled_size(known.size, config.data.resize, 1.0)


def image_size(config: Config) -> tuple[int, int]:
    """(height, width) of an image to test: the data set's, or that of a crop where its images differ.

    Raises UserError where the config does not tell.
    """
    known = _data_set(config)
    if config.task == "instance":
        return training_size(config)
    return known.size if known is not None and known.size is not None else training_size(config)


def size_of(text: str) -> tuple[int, int]:
    """ "1024x2048" as (1024, 2048). Raises UserError where the text is none."""
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise UserError(f"--inference={text} must be {WANTED}")
    return int(height), int(width)


def _data_set(config: Config) -> DataSet | None:
    return DATASETS.get(config.data.name) if config.data.source == "folder" else None
