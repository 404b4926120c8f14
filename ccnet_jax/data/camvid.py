"""CamVid, 11 classes: 367 street scenes to train on, 101 to validate, 233 to test.

Where to get it: the Cambridge-driving Labeled Video Database (Brostow et al., 2009), in the split and
the 11 classes of SegNet (Badrinarayanan et al., 2017), 480x360. How it must lie in `data.dir`:

    images/{train,val,test}/NAME.jpg or .png      RGB
    labels/{train,val,test}/NAME.png              8 bits: 0 to 10 in the order of `CLASSES`, 255 void
"""

import numpy as np

from ccnet_jax.data.files import FolderSource, data_folder
from ccnet_jax.errors import UserError

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


def open_camvid(folder: str | None, split: str) -> FolderSource:
    """The pairs of `split`, sorted by name. Raises UserError naming the folder or file that is missing."""
    root = data_folder(folder, "camvid", LAYOUT)
    images, labels = root / "images" / split, root / "labels" / split
    if not images.is_dir():
        raise UserError(f"{images} is not a folder; camvid's data.dir must hold {LAYOUT}")
    pairs = []
    for image in sorted(p for p in images.iterdir() if p.suffix.lower() in (".jpg", ".jpeg", ".png")):
        label = labels / f"{image.stem}.png"
        if not label.is_file():
            raise UserError(f"{image} has no label {label}; add it or remove the picture")
        pairs.append((image, label))
    if not pairs:
        raise UserError(f"{images} holds no .jpg or .png picture; camvid's data.dir must hold {LAYOUT}")
    return FolderSource(pairs, CLASSES, PALETTE)
