"""Pascal VOC 2012, 21 classes with the background: 1464 images to train on, 1449 to validate.

Where to get it: VOCtrainval_11-May-2012.tar of the PASCAL Visual Object Classes Challenge 2012 (Everingham
et al., 2012); for the 9118 more of "aug" the labels of the Semantic Boundaries Dataset (Hariharan et al.,
2011) converted to PNGs, as every segmentation code base distributes them. How it must lie in `data.dir`,
which may also be the folder that holds VOCdevkit:

    JPEGImages/NAME.jpg
    SegmentationClass/NAME.png                            palette PNG: 0 to 20, 255 void
    SegmentationClassAug/NAME.png                         8 bits or palette, the same numbers
    ImageSets/Segmentation/{train,val,trainval}.txt       lists of NAMEs
    ImageSets/Segmentation/aug.txt                        those that the augmented set adds to train
    ImageSets/Segmentation/trainaug.txt                   or: all 10582 of the augmented set

"train+aug" (two lists, two label folders) and "trainaug" (one list, all labels from SegmentationClassAug)
are the two forms in which people have the augmented training set.
"""

from ccnet_jax.common.errors import UserError
from ccnet_jax.common.labels import Classes, numbered_palette
from ccnet_jax.data.sources import (
    DataSet,
    FolderSource,
    Location,
    check_split,
    data_folder,
    pair_files,
    read_list,
)

CLASSES = (
    "background",
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "dining table",
    "dog",
    "horse",
    "motorbike",
    "person",
    "potted plant",
    "sheep",
    "sofa",
    "train",
    "tv monitor",
)
LAYOUT = (
    "JPEGImages/NAME.jpg, SegmentationClass/NAME.png and ImageSets/Segmentation/{train,val}.txt, as "
    "VOCdevkit/VOC2012 does (and for aug SegmentationClassAug/NAME.png and ImageSets/Segmentation/aug.txt)"
)
SPLITS = ("train", "val", "trainval", "test", "aug", "trainaug")
ROOTS = ("VOCdevkit/VOC2012", "VOC2012")


PALETTE = numbered_palette(len(CLASSES))
LABELS = Classes(CLASSES, PALETTE)  # the files hold the class indices


def open_split(location: Location, split: str) -> FolderSource:
    """The pairs of `split` in its list's order; "test" has no labels.

    Raises UserError naming the list or file that is missing.
    """
    check_split(split, SPLITS, "voc2012")
    root = data_folder(location.dir, "voc2012", LAYOUT, ROOTS)
    lists = root / "ImageSets" / "Segmentation"
    remedy = f"voc2012's data.dir must hold {LAYOUT}"
    names = read_list(lists / f"{split}.txt", "voc2012", remedy)
    images = [root / "JPEGImages" / f"{name}.jpg" for name in names]
    missing = [image for image in images if not image.is_file()]
    if len(missing) > location.skip_corrupt:
        raise UserError(f"{lists / split}.txt names {missing[0]}, which is not there; {remedy}")
    if split == "test":
        return FolderSource([(image, None) for image in images], LABELS)
    kind = "SegmentationClassAug" if split in ("aug", "trainaug") else "SegmentationClass"
    labels = {image: root / kind / f"{image.stem}.png" for image in images}
    return FolderSource(pair_files(images, labels, remedy, location.skip_corrupt), LABELS)


DATA_SET = DataSet(LABELS, SPLITS, open_split, LAYOUT, __doc__)
