"""Cityscapes, 19 classes: 2975 street scenes of 2048x1024 to train on, 500 to validate.

Where to get it: leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip of the Cityscapes data set
(Cordts et al., 2016), after registration, unpacked side by side. How it must lie in `data.dir`:

    leftImg8bit/{train,val}/CITY/NAME_leftImg8bit.png
    gtFine/{train,val}/CITY/NAME_gtFine_labelIds.png      8 bits, ids 0 to 33
"""

import numpy as np

from ccnet_jax.data.files import UNKNOWN, VOID, FolderSource, data_folder
from ccnet_jax.errors import UserError

CLASSES = (
    "road",
    "sidewalk",
    "building",
    "wall",
    "fence",
    "pole",
    "traffic light",
    "traffic sign",
    "vegetation",
    "terrain",
    "sky",
    "person",
    "rider",
    "car",
    "truck",
    "bus",
    "train",
    "motorcycle",
    "bicycle",
)
PALETTE = np.array(
    [
        (128, 64, 128),
        (244, 35, 232),
        (70, 70, 70),
        (102, 102, 156),
        (190, 153, 153),
        (153, 153, 153),
        (250, 170, 30),
        (220, 220, 0),
        (107, 142, 35),
        (152, 251, 152),
        (70, 130, 180),
        (220, 20, 60),
        (255, 0, 0),
        (0, 0, 142),
        (0, 0, 70),
        (0, 60, 100),
        (0, 80, 100),
        (0, 0, 230),
        (119, 11, 32),
    ],
    np.uint8,
)
LAYOUT = (
    "leftImg8bit/{train,val}/CITY/NAME_leftImg8bit.png and gtFine/{train,val}/CITY/NAME_gtFine_labelIds.png, "
    "as unpacked from leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip"
)

# The label id of every train id; ids 0 to 33 that are not here, and 255 for -1, are void.
_LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)


def _train_ids() -> np.ndarray:
    table = np.full(256, UNKNOWN, np.uint8)
    table[:34] = table[255] = VOID
    table[list(_LABEL_IDS)] = np.arange(len(_LABEL_IDS))
    return table


def open_cityscapes(folder: str | None, split: str) -> FolderSource:
    """The pairs of `split`, sorted by name. Raises UserError naming the folder or file that is missing."""
    root = data_folder(folder, "cityscapes", LAYOUT)
    images = root / "leftImg8bit" / split
    if not images.is_dir():
        raise UserError(f"{images} is not a folder; cityscapes' data.dir must hold {LAYOUT}")
    pairs = []
    for image in sorted(images.glob("*/*_leftImg8bit.png")):
        name = image.name.replace("_leftImg8bit.png", "_gtFine_labelIds.png")
        label = root / "gtFine" / split / image.parent.name / name
        if not label.is_file():
            raise UserError(f"{image} has no label {label}; unpack gtFine_trainvaltest.zip into {root}")
        pairs.append((image, label))
    if not pairs:
        raise UserError(f"{images} holds no CITY/*_leftImg8bit.png; cityscapes' data.dir must hold {LAYOUT}")
    return FolderSource(pairs, CLASSES, PALETTE, _train_ids())
