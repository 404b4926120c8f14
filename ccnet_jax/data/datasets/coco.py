"""COCO, 80 classes of objects, and any data set of instances in its format.

Where to get it: https://cocodataset.org, "2017 Train/Val images" and "2017 Train/Val annotations". How it
must lie in `data.dir`, with a file of annotations and a folder of images for each split:

    annotations/instances_{train2017,val2017}.json
    {train2017,val2017}/NAME.jpg

Of a split to predict, annotations/image_info_SPLIT.json will do, which lists images and no annotations.

Classes are those of the annotations' file, in the order of their ids, which may have gaps. `data.classes`
chooses some of them, in another order if need be.
"""

import collections
import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from ccnet_jax.common.errors import UserError, read_json
from ccnet_jax.common.files import as_spelled
from ccnet_jax.common.labels import numbered_palette
from ccnet_jax.data.images import UnusableImage, check_size, decode_image, read_bytes
from ccnet_jax.data.instances import Objects
from ccnet_jax.data.sources import DataSet, Location, MissingSplit, OtherClasses, data_folder

LAYOUT = "annotations/instances_SPLIT.json and SPLIT/NAME.jpg, for example with SPLIT train2017"
_PREFIX, _UNLABELLED = "instances_", "image_info_"
_FARTHEST = 2.0**24  # pixels: float32 has all whole numbers up to it
# What the entries of the file's lists must hold, of which type.
_KEYS: dict[str, dict[str, type | tuple[type, ...]]] = {
    "categories": {"id": int, "name": object},
    "images": {"id": (int, str), "file_name": str, "height": int, "width": int},
    "annotations": {
        "id": object,
        "image_id": (int, str),
        "category_id": int,
        "bbox": object,
        "segmentation": object,
    },
}
COCO_CLASSES = (
    *("person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat"),
    *("traffic light", "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse"),
    *("sheep", "cow", "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie"),
    *("suitcase", "frisbee", "skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove"),
    *("skateboard", "surfboard", "tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon"),
    *("bowl", "banana", "apple", "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut"),
    *("cake", "chair", "couch", "potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse"),
    *("remote", "keyboard", "cell phone", "microwave", "oven", "toaster", "sink", "refrigerator", "book"),
    *("clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush"),
)
# Polygons [[x0, y0, x1, y1, ...], ...] in pixels, or runs {"size": [H, W], "counts": ...}.
Segmentation = list[list[float]] | dict[str, Any]


@dataclasses.dataclass(frozen=True)
class CocoFile:
    """What a file of annotations says.

    Attributes:
      path: of the file.
      names: of the classes, in the order of their ids.
      ids: of the classes, in the file.
      images: what the file says of each image.
      objects: of each image, as far as they have an area.
      empty: the number of annotations that were left out, since their boxes have no area.
    """

    path: pathlib.Path
    names: tuple[str, ...]
    ids: tuple[int, ...]
    images: list[Mapping[str, Any]]
    objects: list[list[Mapping[str, Any]]]
    empty: int


def read_file(path: pathlib.Path, labelled: bool = True) -> CocoFile:
    """The annotations in a file, checked; where it need not be `labelled`, it may have no list of them.

    Raises:
      MissingSplit: there is no such file.
      UserError: naming the annotation, where the file is not in COCO's format.
    """
    content = _content(path, labelled)
    names = {category["id"]: str(category["name"]) for category in content["categories"]}
    if not names:
        raise UserError(f"{path} names no category; it must list at least one under 'categories'")
    images = {image["id"]: image for image in content["images"]}
    objects: dict[Any, list[Mapping[str, Any]]] = {number: [] for number in images}
    empty = 0
    for annotation in content["annotations"]:
        what = f"{path}: annotation {annotation['id']}"
        if annotation["category_id"] not in names:
            raise UserError(
                f"{what} is of category {annotation['category_id']}, which 'categories' does not list; add it"
            )
        if annotation["image_id"] not in images:
            raise UserError(
                f"{what} is of image {annotation['image_id']}, which 'images' does not list; add it"
            )
        image = images[annotation["image_id"]]
        if not _has_area(annotation["bbox"], image, what):
            empty += 1
            continue
        _check_segmentation(annotation["segmentation"], image, what)
        _check_crowd_and_area(annotation, what)
        objects[annotation["image_id"]].append(annotation)
    ids = sorted(names)
    return CocoFile(
        path,
        tuple(names[number] for number in ids),
        tuple(ids),
        list(images.values()),
        list(objects.values()),
        empty,
    )


def _content(path: pathlib.Path, labelled: bool) -> dict[str, list[dict[str, Any]]]:
    """The file's lists, each of whose entries has the keys that are used. Raises as `read_file`."""
    remedy = "it must be a file of instances as COCO's instances_val2017.json"
    if not path.exists():
        raise MissingSplit(f"{path} does not exist; data.dir must hold {LAYOUT}")
    content = read_json(path, remedy)
    if not labelled and isinstance(content, dict):
        content.setdefault("annotations", [])
    for name, keys in _KEYS.items():
        entries = content.get(name) if isinstance(content, dict) else None
        if not isinstance(entries, list):
            hint = (
                "; test splits have no annotations to train on or to score" if name == "annotations" else ""
            )
            raise UserError(f"{path} has no list {name!r}{hint}; {remedy}")
        for number, entry in enumerate(entries):
            missing = [key for key in keys if not isinstance(entry, dict) or key not in entry]
            if missing:
                raise UserError(f"{path}: entry {number} of {name!r} has no {missing[0]!r}; {remedy}")
            wrong = [key for key, kind in keys.items() if not isinstance(entry[key], kind)]
            if wrong:
                value = json.dumps(entry[wrong[0]])[:40]
                raise UserError(f"{path}: entry {number} of {name!r} has as {wrong[0]!r} {value}; {remedy}")
    for name in ("categories", "images"):
        _check_unique([entry["id"] for entry in content[name]], f"{path}: {name!r} has the id")
    _check_unique(
        [str(entry["name"]) for entry in content["categories"]], f"{path}: 'categories' has the name"
    )
    for image in content["images"]:
        _check_image(image, f"{path}: image {image['id']}")
    return content


def _check_unique(values: list[int | str], what: str) -> None:
    """Raise UserError where a value occurs twice."""
    if repeated := [value for value, count in collections.Counter(values).items() if count > 1]:
        raise UserError(f"{what} {repeated[0]} more than once; give each entry its own")


def _check_image(image: Mapping[str, Any], what: str) -> None:
    """Raise UserError where an image has no reasonable size, or its name leads out of its folder."""
    if min(image["height"], image["width"]) < 1:
        raise UserError(f"{what} is {image['width']}x{image['height']} pixels; correct it")
    check_size(image["width"], image["height"], what)
    name = pathlib.PurePosixPath(image["file_name"])
    if name.is_absolute() or ".." in name.parts or not name.name:
        raise UserError(
            f"{what} has the file_name {image['file_name']!r}, which leads out of the images' folder; "
            "name a file in it"
        )


def _has_area(box: Any, image: Mapping[str, Any], what: str) -> bool:
    """Whether a box (x, y, width, height) has an area. Raises UserError where it is none of the image."""
    numbers = isinstance(box, list) and len(box) == 4 and all(isinstance(x, int | float) for x in box)
    if not numbers or not all(-_FARTHEST < x < _FARTHEST for x in box):
        raise UserError(
            f"{what} has the bbox {box}, which must be [x, y, width, height] in pixels; correct it"
        )
    x, y, width, height = box
    if width <= 0 or height <= 0:
        return False
    if x >= image["width"] or y >= image["height"] or x + width <= 0 or y + height <= 0:
        raise UserError(
            f"{what} has the bbox {box}, outside its image {image['file_name']} of "
            f"{image['width']}x{image['height']} pixels; correct it"
        )
    return True


def _check_segmentation(segmentation: Any, image: Mapping[str, Any], what: str) -> None:
    """Raise UserError where a segmentation is neither polygons nor runs of the image."""
    if isinstance(segmentation, dict):
        size = [image["height"], image["width"]]
        if "counts" not in segmentation or segmentation.get("size") != size:
            raise UserError(
                f"{what} has runs of the size {segmentation.get('size')}, and its image {size}; correct it"
            )
        if not isinstance(segmentation["counts"], list | str):
            raise UserError(f"{what} has runs that are neither a list nor a text; correct it")
        return
    if not isinstance(segmentation, list) or not segmentation:
        raise UserError(f"{what} has no segmentation; give polygons or runs, or remove the annotation")
    for polygon in segmentation:
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
            raise UserError(
                f"{what} has a polygon of {len(polygon) / 2:g} points, which must have three or more; "
                "correct it, or remove the annotation"
            )
        if not _is_near(polygon, 2 * max(image["height"], image["width"])):
            raise UserError(
                f"{what} has a polygon that is not of numbers, or far outside its image "
                f"{image['file_name']} of {image['width']}x{image['height']} pixels; correct it"
            )


def _check_crowd_and_area(annotation: Mapping[str, Any], what: str) -> None:
    """Raise UserError where what is said of a crowd, or of the area, is none."""
    crowd, area = annotation.get("iscrowd", 0), annotation.get("area", 0)
    if crowd not in (0, 1):
        raise UserError(f"{what} has as 'iscrowd' {json.dumps(crowd)[:40]}, which must be 0 or 1; correct it")
    if not isinstance(area, int | float) or not 0 <= area < _FARTHEST**2:
        raise UserError(
            f"{what} has as 'area' {json.dumps(area)[:40]}, which must be a number of pixels; correct it"
        )


def _is_near(numbers: list[Any], farthest: float) -> bool:
    """Whether all are numbers within a distance from 0. What fills a polygon takes memory for its outline."""
    try:
        return math.isfinite(sum(numbers)) and -farthest <= min(numbers) and max(numbers) <= farthest
    except (TypeError, OverflowError):
        return False


class CocoSource:
    """An `InstanceSource` of COCO's format.

    Args:
      file: what the annotations say.
      folder: of the images.
      classes: those that are wanted, in their order; None takes all of the file.
      may_miss: how many images may be missing from the folder.

    Attributes:
      empty: see `CocoFile`.

    Raises:
      OtherClasses: a class is none of the file's.
      UserError: a class is named twice, or more images are missing.
    """

    def __init__(
        self,
        file: CocoFile,
        folder: pathlib.Path,
        classes: Sequence[str] | None = None,
        may_miss: int = 0,
    ):
        self.classes = tuple(classes or file.names)
        self.palette = numbered_palette(len(self.classes) + 1)[1:]
        if len(set(self.classes)) < len(self.classes):
            repeated = max(self.classes, key=self.classes.count)
            raise UserError(f"config.data.classes names {repeated!r} more than once; name each class once")
        unknown = [name for name in self.classes if name not in file.names]
        if unknown:
            raise OtherClasses(
                f"config.data.classes names {unknown[0]!r}, and {file.path} has only {', '.join(file.names)}"
            )
        self.class_ids = tuple(file.ids[file.names.index(name)] for name in self.classes)
        self._class_of = {number: i for i, number in enumerate(self.class_ids)}
        self.empty = file.empty
        self._annotations, self._images = file.path, file.images
        self._objects = [
            [annotation for annotation in objects if annotation["category_id"] in self._class_of]
            for objects in file.objects
        ]
        self._paths = [as_spelled(folder / str(image["file_name"])) for image in file.images]
        names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
        missing = [  # `os.path.isfile` takes any name for an answer
            path for path in self._paths if path.name not in names and not os.path.isfile(path)
        ]
        if len(missing) > may_miss:
            raise UserError(
                f"{file.path} names the image {missing[0]}, which does not exist ({len(missing)} in all); "
                f"add it, or let training do without up to N images by --config.data.skip_corrupt=N"
            )

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        path = self._paths[index]
        image = decode_image(read_bytes(path), path)
        if image.shape[:2] != self.size(index):
            height, width = self.size(index)
            raise UnusableImage(
                f"{path} is {image.shape[1]}x{image.shape[0]} pixels, but by its file {width}x{height}; "
                "make them agree"
            )
        return {"image": image}

    def files(self) -> list[pathlib.Path]:
        """The images, also of other splits, and all files of annotations that lie together."""
        folder = self._annotations.parent
        splits = {
            path.stem.removeprefix(prefix)
            for prefix in (_PREFIX, _UNLABELLED)
            for path in folder.glob(f"{prefix}*.json")
        }
        others = [path for split in sorted(splits) for path in (folder.parent / split).glob("*")]
        return [*self._paths, *others, *folder.glob("*.json")]

    def name(self, index: int) -> str:
        """The image's `file_name` without suffix, with "-" for the folders' "/"."""
        path = pathlib.PurePosixPath(self._images[index]["file_name"])
        return "-".join(path.with_suffix("").parts)

    def image_id(self, index: int) -> int:
        """The image's number in the file."""
        return self._images[index]["id"]

    def size(self, index: int) -> tuple[int, int]:
        """(height, width) of the image, by its annotations."""
        entry = self._images[index]
        return entry["height"], entry["width"]

    def count(self, index: int) -> int:
        """How many objects of the wanted classes the image has, without crowds."""
        return sum(not annotation.get("iscrowd", 0) for annotation in self._objects[index])

    def objects(self, index: int) -> Objects:
        """The objects of the image, of the wanted classes. Raises UserError where one cannot be read."""
        height, width = self.size(index)
        annotations = self._objects[index]
        boxes = np.array([annotation["bbox"] for annotation in annotations], np.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        masks, areas = [], []
        for annotation in annotations:
            try:
                mask = _mask(annotation["segmentation"], height, width)
                areas.append(float(annotation.get("area", mask.sum())))
            except (ValueError, TypeError, OverflowError) as error:  # pycocotools', of runs that are none
                raise UserError(
                    f"{self._annotations}: annotation {annotation['id']} cannot be read ({error}); correct it"
                ) from None
            masks.append(mask)
        return Objects(
            np.clip(boxes, 0, np.array([width, height, width, height], np.float32)),
            np.array([self._class_of[x["category_id"]] for x in annotations], np.int32),
            masks,
            np.array([bool(x.get("iscrowd", 0)) for x in annotations], bool),
            np.array(areas, np.float32),
        )


def _mask(segmentation: Segmentation, height: int, width: int) -> np.ndarray:
    """The pixels of an object, uint8 [height, width]."""
    if isinstance(segmentation, list):
        runs = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation["counts"], list):
        if sum(segmentation["counts"]) != height * width:
            raise ValueError(f"its runs have {sum(segmentation['counts'])} pixels, not {height * width}")
        runs = coco_mask.frPyObjects(segmentation, height, width)
    else:
        runs = segmentation
    return coco_mask.decode(runs)


def open_split(location: Location, split: str) -> CocoSource:
    """The images of `split`. Raises UserError naming the file or folder that is missing or wrong."""
    return _open_split(location, split, labelled=True)


def open_unlabelled(location: Location, split: str) -> CocoSource:
    """As `open_split`, where the file need not have annotations. Raises UserError as `open_split`."""
    return _open_split(location, split, labelled=False)


def _open_split(location: Location, split: str, labelled: bool) -> CocoSource:
    root = data_folder(location.dir, "coco", LAYOUT)
    path, other = (root / "annotations" / f"{prefix}{split}.json" for prefix in (_PREFIX, _UNLABELLED))
    file = read_file(other if other.exists() and not path.exists() else path, labelled)
    return CocoSource(file, root / split, location.classes, location.skip_corrupt)


def summary(source: CocoSource) -> str:
    """What was left out of the file of annotations; "" for nothing."""
    match source.empty:
        case 0:
            return ""
        case 1:
            return "1 annotation is left out: its box has no area"
    return f"{source.empty:,} annotations are left out: their boxes have no area"


DATA_SET = DataSet(
    None,
    ("train2017", "val2017"),
    open_split,
    LAYOUT,
    __doc__,
    summary,
    task="instance",
    open_unlabelled=open_unlabelled,
    keys=("classes",),
)
