"""Any TFDS data set of images and label maps, stored as ArrayRecord, read without TensorFlow.

What TFDS keeps of an image are the bytes of its file. They are decoded here as those of a folder are, and
not by TFDS, which would take a palette PNG's colours for its labels: the pixels are the same either way.
Of data sets that `prepare --tiles` wrote, only the tiles are decoded that a crop needs.
"""

import bisect
import contextlib
import functools
import itertools
import json
import os
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from array_record.python import array_record_data_source
from tensorflow_datasets.core import example_parser, naming, read_only_builder
from tensorflow_datasets.core.utils import file_utils, version

from ccnet_jax.common.errors import UserError
from ccnet_jax.common.files import read_file
from ccnet_jax.common.labels import Classes, numbered_palette
from ccnet_jax.data.class_files import check_same_classes, read_class_file
from ccnet_jax.data.config import DataConfig
from ccnet_jax.data.datasets import DATASETS
from ccnet_jax.data.images import UnusableImage, decode_image, decode_indices, decode_sample
from ccnet_jax.data.sources import NoClasses, OtherClasses
from ccnet_jax.data.tiles import TiledImage

_PREPARE = "python -m ccnet_jax.prepare"
_OWN_CLASSES = "tensorflow_datasets.core.features."
_FEATURES = "--config.data.features=IMAGE,LABEL"

# What `prepare --tiles` writes. TFDS has no feature for files of a format that it cannot decode itself.
TILE_FEATURES = tfds.features.FeaturesDict(
    {
        "image_tiles": tfds.features.Sequence(
            tfds.features.Text(), doc="the image in tiles, row by row: QOI or JPEG files"
        ),
        "label_tiles": tfds.features.Sequence(
            tfds.features.Text(),
            doc="the label map in the same tiles: PNG files of class indices; 255 is void",
        ),
        "grid": tfds.features.Tensor(
            shape=(3,), dtype=np.int32, doc="height and width of the image, and a tile's side, in pixels"
        ),
        "name": tfds.features.Text(doc="the image's name, without folder and suffix"),
    }
)


class _Records:
    """The records of a split; they can be pickled, and then open their files again.

    Args:
      title: of the data set and split, for error messages.
      files: TFDS's instructions which records of which files these are.
      specs: {feature: TFDS's spec of its serialized form} of the features to read.
      classes: of the label maps.
    """

    def __init__(self, title: str, files: list[Any], specs: dict[str, Any], classes: Classes):
        self._title, self.label_classes = title, classes
        self.classes, self.palette, self.numbers = classes.names, classes.palette, classes.numbers
        # Not the sources that TFDS's builders make: those pickle the builder, which reads its folder again.
        self._records = array_record_data_source.ArrayRecordDataSource(files)
        self._parser = example_parser.ExampleParserNp(specs)
        self._files = [str(file.filename) for file in files]
        self._ends = list(itertools.accumulate(file.take for file in files))

    def __len__(self) -> int:
        return self._ends[-1]

    def name(self, index: int) -> str:
        """What the record's "name" says, if it has one, else split and number; fit for a file name."""
        name = self._record(index).get("name", b"").decode(errors="replace")
        return re.sub(r"[^\w.-]+", "-", name or f"{self._title.split()[-1]}-{index:05d}")

    def files(self) -> list[pathlib.Path]:
        """The shards."""
        return [pathlib.Path(file) for file in self._files]

    def _record(self, index: int) -> dict[str, Any]:
        try:
            return self._parser.parse_example(self._records[index])
        except (RuntimeError, KeyError) as error:  # a corrupt file; a record without that feature
            reason = " ".join(str(error).split())
            raise UnusableImage(
                f"{self._file(index)} cannot be read ({reason}); restore that file or prepare the data set "
                "again"
            ) from None

    def _file(self, index: int) -> str:
        return self._files[bisect.bisect_right(self._ends, index)]


class TfdsSource(_Records):
    """A `Source` of records that hold the files of images and label maps.

    Args:
      image, label: which feature is the image, and which the label map.
      title, files, specs, classes: as of `_Records`.
    """

    def __init__(
        self, image: str, label: str, title: str, files: list[Any], specs: dict[str, Any], classes: Classes
    ):
        super().__init__(title, files, specs, classes)
        self._image, self._label = image, label

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        where = f"record {index} of {self._title}"
        return decode_sample(
            self.label_classes, *self.read(index), f"{self._image} of {where}", f"{self._label} of {where}"
        )

    def read(self, index: int) -> tuple[bytes, bytes | None]:
        """The bytes of the image's file and of its label's, None where that is empty.

        Raises UserError where the record cannot be read.
        """
        record = self._record(index)
        return record[self._image], record[self._label] or None


class TiledSource(_Records):
    """A `LazySource` of records that hold images and label maps in tiles, as `prepare` writes them."""

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return {key: image.whole() for key, image in self.lazy(index).items()}

    def lazy(self, index: int) -> dict[str, TiledImage]:
        """As `source[index]`, with images whose windows are decoded when they are asked for.

        Raises UserError where the record cannot be read or is not whole.
        """
        record = self._record(index)
        height, width, side = map(int, record["grid"])
        where = f"record {index} of {self._title} in {self._file(index)}"
        classes = Classes(self.classes, self.palette)  # tiles of labels hold class indices
        return {
            "image": TiledImage(
                record["image_tiles"], (height, width, 3), side, decode_image, f"image of {where}"
            ),
            "label": TiledImage(
                record["label_tiles"],
                (height, width),
                side,
                functools.partial(decode_indices, classes),
                f"label of {where}",
            ),
        }


def open_split(data: DataConfig, split: str) -> TfdsSource | TiledSource:
    """The records of a split in their stored order; TFDS understands "train+val" and "train[:10%]" itself.

    Args:
      data: the config's `data`: `name` as TFDS has it ("NAME", "NAME/CONFIG", "NAME:VERSION"), `dir` as
        TFDS's data_dir or None for TFDS's own, `features` as the names of (image, label) or None where only
        one choice is possible, `classes` and `palette` for data sets that have none.
      split: of the data set.

    Raises:
      UserError: there is no such data set or split, it is unfinished or not stored as ArrayRecord, or its
        features or classes are not clear, or its tiles are another version's.
    """
    builder = _builder(data.name, data.dir)
    where = builder.data_dir
    if tfds.core.FileFormat.ARRAY_RECORD not in builder.info.available_file_formats():
        stored = builder.info.file_format.value
        raise UserError(
            f"{where} is stored as {stored}, which cannot be read at random; prepare it again with "
            "file_format='array_record'"
        )
    builder.info.set_file_format("array_record", override=True, override_if_initialized=True)
    features, title = builder.info.features, f"{data.name} {split}"
    if _are_tiles(features, where):
        if data.features is not None:
            raise UserError(f"{where} holds tiles, which have one meaning; remove --config.data.features")
        classes = _classes(data, None, pathlib.Path(where))
        return TiledSource(title, _files(builder, data.name, split), features.get_serialized_info(), classes)
    image, label = _feature_names(features, data.features, where)
    classes = _classes(data, features[label], pathlib.Path(where))
    serialized = features.get_serialized_info()
    names = [image, label]
    if "name" in serialized and isinstance(features["name"], tfds.features.Text):
        names.append("name")
    specs = {name: serialized[name] for name in names}
    return TfdsSource(image, label, title, _files(builder, data.name, split), specs, classes)


def _base_name(name: str) -> str:
    """The data set's name without config and version. Raises UserError where it is no such name."""
    try:
        return naming.parse_builder_name_kwargs(name)[0].name
    except ValueError:
        raise UserError(
            f"data.name={name!r} is no name of a TFDS data set; write NAME, NAME/CONFIG or NAME:VERSION"
        ) from None


def _builder(name: str, folder: str | None) -> tfds.core.DatasetBuilder:
    """What TFDS knows of a prepared data set, from its files alone: TFDS's own code might download it."""
    base = _base_name(name)
    folder = folder and os.path.expanduser(folder)
    roots = [tfds.core.Path(path) for path in file_utils.list_data_dirs(given_data_dir=folder)]
    try:
        names = [name]
        if name == base:  # of names that TFDS has code for, it looks for the code's default config only
            names += [
                f"{name}:{v}" for root in roots for v in reversed(version.list_all_versions(root / base))
            ]
        for root in roots:
            for pattern in ("*/features.json", "*/*/features.json"):  # below VERSION, or CONFIG/VERSION
                for path in (root / base).glob(pattern):
                    _check_features(path)
        for candidate in names:
            with contextlib.suppress(tfds.core.DatasetNotFoundError):
                return read_only_builder.builder_from_files(candidate, data_dir=folder)
        parts = [part for root in roots if (root / base).is_dir() for part in (root / base).iterdir()]
    except UserError:
        raise
    except Exception as error:  # whatever TFDS meets in corrupt files, and in file systems that it lacks
        reason = " ".join(str(error).split())
        raise UserError(f"{name} in {', '.join(map(str, roots))} cannot be opened: {reason}") from None
    for part in parts:
        if ".incomplete" in part.name:
            raise UserError(
                f"{part} is unfinished; run the command that prepares it again ({_PREPARE} goes on where it "
                "stopped)"
            )
    raise UserError(
        f"{', '.join(map(str, roots))} holds no prepared data set {name}; prepare it there ({_PREPARE}, or "
        "TFDS with file_format='array_record'), or correct --config.data.dir and --config.data.name"
    )


def _check_features(path: Any) -> None:
    """Raise UserError where a features.json names classes that are not TFDS's own.

    TFDS imports the modules of the classes, which runs their code: a data set must not say which.
    """

    def classes_in(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            for key, inner in value.items():
                if key in ("pythonClassName", "python_class_name", "type") and isinstance(inner, str):
                    yield inner
                yield from classes_in(inner)
        elif isinstance(value, list):
            for inner in value:
                yield from classes_in(inner)

    try:
        foreign = [x for x in classes_in(json.loads(read_file(path))) if not x.startswith(_OWN_CLASSES)]
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error}); prepare the data set again") from None
    if foreign:
        raise UserError(
            f"{path} names the class {foreign[0]}, whose code would be run; only {_OWN_CLASSES}* are read: "
            "prepare the data set with TFDS's own features"
        )


def _files(builder: tfds.core.DatasetBuilder, name: str, split: str) -> list[Any]:
    """TFDS's file instructions of a split. Raises UserError where it is unknown or empty, or a file lacks."""
    try:
        files = builder.info.splits[split].file_instructions
    except (KeyError, ValueError):
        raise UserError(
            f"{name} in {builder.data_dir} has the splits {', '.join(builder.info.splits)}, not {split!r}"
        ) from None
    if not files:
        raise UserError(f"split {split} of {name} in {builder.data_dir} has no images; choose another")
    for file in files:
        if tfds.core.Path(file.filename).parent != tfds.core.Path(builder.data_dir):
            raise UserError(
                f"{builder.data_dir} has its records in {file.filename}, outside that folder; prepare the "
                "data set again"
            )
        if not tfds.core.Path(file.filename).exists():
            raise UserError(f"{file.filename} is missing; restore it or prepare the data set again")
    return files


def _are_tiles(features: Any, where: Any) -> bool:
    """Whether records hold tiles. Raises UserError where another version of this program wrote them."""
    if not isinstance(features, tfds.features.FeaturesDict) or "image_tiles" not in features:
        return False
    if features.get_serialized_info() != TILE_FEATURES.get_serialized_info():
        raise UserError(
            f"{where} holds tiles in the form of another version of this program; prepare the data set again "
            f"({_PREPARE} --tiles)"
        )
    return True


def _feature_names(features: Any, wanted: tuple[str, str] | None, where: Any) -> tuple[str, str]:
    """The names of the image and the label feature: those `wanted`, or the only ones that can be meant."""
    if not isinstance(features, tfds.features.FeaturesDict):
        raise UserError(f"{where} is a {type(features).__name__} of features, not a dict; choose another")
    candidates = {name: f for name, f in features.items() if isinstance(f, tfds.features.Image)}
    there = ", ".join(f"{name} ({_describe_feature(feature)})" for name, feature in sorted(features.items()))
    if wanted is not None:
        for name in wanted:
            if name not in candidates:
                raise UserError(f"{where} has no image feature {name!r}; set {_FEATURES} to two of {there}")
        image, label = wanted
        return image, label
    images = [name for name, feature in candidates.items() if feature.shape[-1] == 3]
    labels = [name for name, f in candidates.items() if f.shape[-1] == 1 and f.np_dtype == np.uint8]
    if len(images) != 1 or len(labels) != 1:
        raise UserError(
            f"{where} does not say which features are image and label; set {_FEATURES} to two of {there}"
        )
    return images[0], labels[0]


def _describe_feature(feature: Any) -> str:
    """For example "Image, 3 channels"."""
    kind = type(feature).__name__
    return f"{kind}, {feature.shape[-1]} channels" if isinstance(feature, tfds.features.Image) else kind


def _classes(data: DataConfig, label: Any, folder: pathlib.Path) -> Classes:
    """Of a data set known here its own, else the config's, else those that the data set names itself.

    Args:
      data: `config.data`.
      label: TFDS's feature of the label maps; None of tiles, which name no classes.
      folder: of the data set; `prepare` leaves a classes.json there.

    Raises:
      OtherClasses: the config names others than the data set.
      NoClasses: neither names any.
      UserError: there are too many.
    """
    base = _base_name(data.name)
    known = DATASETS[base].classes if base in DATASETS else None
    if known is not None:
        if data.classes is not None and data.classes != known.names:
            raise OtherClasses(f"{base} has classes of its own; remove --config.data.classes")
        return known
    found = read_class_file(folder)
    if data.classes is None and found is not None:
        return found[1]
    own = tuple(_label_names(label))
    names = data.classes or own
    if not names:
        raise NoClasses(
            f"{data.name} does not name its classes; set --config.data.classes to their names, in the order "
            "of the numbers in the labels"
        )
    if len(names) > 254:
        raise UserError(f"{data.name} has {len(names)} classes; at most 254 fit a label of 8 bits")
    palette = numbered_palette(len(names)) if data.palette is None else np.array(data.palette, np.uint8)
    classes = Classes(names, palette)
    if found is not None:
        check_same_classes(classes, found[1], str(found[0]))
    elif own:
        check_same_classes(classes, Classes(own, numbered_palette(len(own))), f"{data.name} in {folder}")
    return classes


def _label_names(label: Any) -> list[str]:
    """The names that a LabeledImage was given; without any TFDS makes up "0", "1", ..."""
    if not isinstance(label, tfds.features.LabeledImage) or not label.num_classes:
        return []
    names = label.names
    return [] if names == [str(i) for i in range(len(names))] else names
