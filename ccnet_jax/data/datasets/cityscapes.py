"""Cityscapes, 19 classes: 2975 street scenes of 2048x1024 to train on, 500 to validate, 1525 to test.

Where to get it: leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip of the Cityscapes data set
(Cordts et al., 2016), after registration, unpacked side by side; for the 19998 coarsely labelled scenes
leftImg8bit_trainextra.zip and gtCoarse.zip too. How it must lie in `data.dir`:

    leftImg8bit/{train,val,test,train_extra}/CITY/NAME_leftImg8bit.png      RGB
    gtFine/{train,val}/CITY/NAME_gtFine_labelIds.png                        8 bits, ids 0 to 33
    gtCoarse/train_extra/CITY/NAME_gtCoarse_labelIds.png                    the same
"""

import numpy as np

from ccnet_jax.common.errors import UserError
from ccnet_jax.common.labels import UNKNOWN, VOID, Classes
from ccnet_jax.data.sources import (
    DataSet,
    FolderSource,
    Location,
    MissingSplit,
    check_split,
    data_folder,
    pair_files,
    visible,
)

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
    "leftImg8bit/{train,val,test}/CITY/NAME_leftImg8bit.png and gtFine/{train,val}/CITY/"
    "NAME_gtFine_labelIds.png, as unpacked from leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip"
)
SPLITS = ("train", "val", "test", "train_extra")

# The label id of every train id; ids 0 to 33 that are not here, and 255 for -1, are void.
_LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)


def _train_ids() -> np.ndarray:
    """The table from label ids to train ids, uint8 [256]."""
    table = np.full(256, UNKNOWN, np.uint8)
    table[:34] = table[255] = VOID
    table[list(_LABEL_IDS)] = np.arange(len(_LABEL_IDS))
    return table


LABELS = Classes(CLASSES, PALETTE, _train_ids())


def open_split(location: Location, split: str) -> FolderSource:
    """The pairs of `split`, sorted by name; "test" has no labels, "train_extra" the coarse ones.

    Raises UserError naming the folder or file that is missing.
    """
    check_split(split, SPLITS, "cityscapes")
    root = data_folder(location.dir, "cityscapes", LAYOUT)
    folder_of_images = root / "leftImg8bit" / split
    if not folder_of_images.is_dir():
        raise MissingSplit(f"{folder_of_images} is not a folder; cityscapes' data.dir must hold {LAYOUT}")
    images = visible(folder_of_images.glob("*/*_leftImg8bit.png"))
    if not images:
        raise UserError(
            f"{folder_of_images} holds no CITY/*_leftImg8bit.png; cityscapes' data.dir must hold {LAYOUT}"
        )
    if split == "test":
        return FolderSource([(image, None) for image in images], LABELS)
    kind = "gtCoarse" if split == "train_extra" else "gtFine"
    labels = {}
    for image in images:
        name = image.name.replace("_leftImg8bit.png", f"_{kind}_labelIds.png")
        labels[image] = root / kind / split / image.parent.name / name
    package = "gtCoarse.zip" if kind == "gtCoarse" else "gtFine_trainvaltest.zip"
    remedy = f"unpack {package} into {root}"
    return FolderSource(pair_files(images, labels, remedy, location.skip_corrupt), LABELS)


DATA_SET = DataSet(LABELS, SPLITS, open_split, LAYOUT, __doc__, size=(1024, 2048))
