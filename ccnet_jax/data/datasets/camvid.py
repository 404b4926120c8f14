"""CamVid, 11 classes: 367 street scenes to train on, 101 to validate, 233 to test.

Where to get it: the Cambridge-driving Labeled Video Database (Brostow et al., 2009), in the split and
the 11 classes of SegNet (Badrinarayanan et al., 2017), 480x360. How it must lie in `data.dir`:

    images/{train,val,test}/NAME.jpg or .png      RGB
    labels/{train,val,test}/NAME.png              8 bits: 0 to 10 in the order of `CLASSES`, 255 void
"""

import numpy as np

from ccnet_jax.common.errors import UserError
from ccnet_jax.common.labels import Classes
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
    "sky",
    "building",
    "pole",
    "road",
    "pavement",
    "tree",
    "sign",
    "fence",
    "car",
    "pedestrian",
    "bicyclist",
)
PALETTE = np.array(
    [
        (128, 128, 128),
        (128, 0, 0),
        (192, 192, 128),
        (128, 64, 128),
        (60, 40, 222),
        (128, 128, 0),
        (192, 128, 128),
        (64, 64, 128),
        (64, 0, 128),
        (64, 64, 0),
        (0, 128, 192),
    ],
    np.uint8,
)
LAYOUT = "images/{train,val,test}/NAME.jpg and labels/{train,val,test}/NAME.png"
SPLITS = ("train", "val", "test")
LABELS = Classes(CLASSES, PALETTE)  # the files hold the class indices


def open_split(location: Location, split: str) -> FolderSource:
    """The pairs of `split`, sorted by name. Raises UserError naming the folder or file that is missing."""
    check_split(split, SPLITS, "camvid")
    root = data_folder(location.dir, "camvid", LAYOUT)
    folder_of_images = root / "images" / split
    if not folder_of_images.is_dir():
        raise MissingSplit(f"{folder_of_images} is not a folder; camvid's data.dir must hold {LAYOUT}")
    images = visible(p for p in folder_of_images.iterdir() if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if not images:
        raise UserError(
            f"{folder_of_images} holds no .jpg or .png image; camvid's data.dir must hold {LAYOUT}"
        )
    labels = {image: root / "labels" / split / f"{image.stem}.png" for image in images}
    remedy = "add it or remove the image"
    return FolderSource(pair_files(images, labels, remedy, location.skip_corrupt), LABELS)


DATA_SET = DataSet(LABELS, SPLITS, open_split, LAYOUT, __doc__, size=(360, 480))
