"""Pictures and labels from files, checked: every complaint names the file and the remedy."""

import bisect
import io
import pathlib
from typing import Protocol

import cv2
import imagecodecs
import numpy as np
from PIL import Image

from ccnet_jax.errors import UserError

VOID = 255  # the label of pixels that count nowhere
UNKNOWN = 254  # in a table of label ids: no such id


class MissingSplit(UserError):
    """The folder or list of a split is not there: people leave out splits that they do not use."""


class Source(Protocol):
    """A data set: random access to pairs, and what their numbers mean.

    `source[i]` is {"image": uint8 [H, W, 3] RGB, "label": uint8 [H, W]}; a label is an index into
    `classes` or 255, which is ignored everywhere.
    """

    classes: tuple[str, ...]
    palette: np.ndarray  # uint8 [len(classes), 3] RGB
    numbers: np.ndarray  # uint8 [len(classes)], what stands for each class in the data set's label files

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, np.ndarray]: ...

    def name(self, index: int) -> str:
        """A short name of picture `index`, fit for a file name."""


class Classes:
    """What the numbers in a data set's label files mean.

    Args:
      names: of the classes.
      palette: uint8 [len(names), 3] RGB.
      label_ids: [256] uint8 table from the files' numbers to indices into `names`, `VOID`, or `UNKNOWN`
        for those that the data set does not have; None where the files hold the indices and 255.
    """

    def __init__(self, names: tuple[str, ...], palette: np.ndarray, label_ids: np.ndarray | None = None):
        if label_ids is None:
            label_ids = np.full(256, UNKNOWN, np.uint8)
            label_ids[: len(names)] = np.arange(len(names))
            label_ids[VOID] = VOID
        self.names, self.palette, self.label_ids = names, palette, label_ids
        self.numbers = np.array([np.argmax(label_ids == i) for i in range(len(names))], np.uint8)

    def decode(self, image: bytes, label: bytes | None, image_name: object, label_name: object) -> dict:
        """A sample (see `Source`) from the bytes of its two files; without a label all of it is void.

        Raises UserError, naming the file, where one cannot be decoded, their sizes differ, or the label
        holds a number that the data set does not have.
        """
        pixels = decode_image(image, image_name)
        if label is None:
            return {"image": pixels, "label": np.full(pixels.shape[:2], VOID, np.uint8)}
        written = decode_label(label, label_name)
        if pixels.shape[:2] != written.shape:
            raise UserError(
                f"{image_name} is {pixels.shape[1]}x{pixels.shape[0]} pixels (upright, by its EXIF data) but "
                f"its label {label_name} is {written.shape[1]}x{written.shape[0]}; make them the same size"
            )
        indices = self.label_ids.take(written)
        if (indices == UNKNOWN).any():
            y, x = np.argwhere(indices == UNKNOWN)[0]
            known = np.flatnonzero(self.label_ids[:VOID] != UNKNOWN)
            raise UserError(
                f"{label_name} holds the label {written[y, x]} at row {y}, column {x}, which is none of its "
                f"data set's labels {known[0]} to {known[-1]} (or {VOID}, void); correct the file"
            )
        return {"image": pixels, "label": indices}


class FolderSource:
    """A `Source` of pairs of picture and label files.

    Args:
      pairs: (image path, label path) of every sample; None for the label of a test picture.
      classes: of the label files.
    """

    def __init__(self, pairs: list[tuple[pathlib.Path, pathlib.Path | None]], classes: Classes):
        self.pairs, self._classes = pairs, classes
        self.classes, self.palette, self.numbers = classes.names, classes.palette, classes.numbers

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return self._classes.decode(*self.read(index), *self.pairs[index])

    def read(self, index: int) -> tuple[bytes, bytes | None]:
        """The bytes of the picture's file and of its label's. Raises UserError if they cannot be read."""
        image, label = self.pairs[index]
        return read_bytes(image), None if label is None else read_bytes(label)

    def name(self, index: int) -> str:
        return self.pairs[index][0].stem


class JoinedSource:
    """Several sources of the same classes, one after the other."""

    def __init__(self, parts: list[Source]):
        self.parts = parts
        self.classes, self.palette, self.numbers = parts[0].classes, parts[0].palette, parts[0].numbers
        self._starts = [sum(map(len, parts[:i])) for i in range(len(parts))]

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        part, there = self._find(index)
        return part[there]

    def name(self, index: int) -> str:
        part, there = self._find(index)
        return part.name(there)

    def _find(self, index: int) -> tuple[Source, int]:
        part = bisect.bisect_right(self._starts, index) - 1
        return self.parts[part], index - self._starts[part]


def decode_image(data: bytes, name: object) -> np.ndarray:
    """The picture as RGB uint8 [H, W, 3], upright as its EXIF data says; grey, CMYK and 16 bits too.

    8-bit RGB PNGs, of which Cityscapes consists, go through imagecodecs: it takes 0.6 of OpenCV's time
    (`experiments/data_throughput.py`). For JPEGs the two are equally fast, and OpenCV finds truncation.

    Raises UserError, naming it `name`, where the data are truncated, damaged or no picture.
    """
    if _is_png(data) and data[24:26] == b"\x08\x02":  # 8 bits, RGB
        pixels = _decode_png(data)
    else:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB) if data else None
    if pixels is None or pixels.ndim != 3:
        raise UserError(_undecodable(name, data))
    return pixels[..., :3]


def decode_label(data: bytes, name: object) -> np.ndarray:
    """The numbers in a label file, uint8 [H, W]: grey values, or a palette PNG's indices (not its colours).

    Raises UserError, naming it `name`, where the data are damaged, or no image of one 8-bit channel.
    """
    label = None
    if _is_png(data):
        bits, colour = data[24], data[25]
        if colour == 3:
            label = _palette_indices(data)
        else:
            label = _decode_png(data)
            if label is not None and bits < 8:  # decoders spread 1, 2 and 4 bits over 0 to 255
                label = label // (255 // (2**bits - 1))
    elif data:
        label = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if label is None:
        raise UserError(_undecodable(name, data))
    if label.ndim != 2 or label.dtype != np.uint8:
        raise UserError(
            f"{name} has shape {label.shape} and type {label.dtype}; a label must be an 8-bit image of one "
            "channel that holds class ids"
        )
    return label


def _is_png(data: bytes) -> bool:
    """Whether a PNG's signature and header are there; bytes 24 and 25 are bit depth and colour type."""
    return len(data) > 25 and data[:8] == b"\x89PNG\r\n\x1a\n"


def _decode_png(data: bytes) -> np.ndarray | None:
    try:
        return imagecodecs.png_decode(data)
    except imagecodecs.PngError:
        return None


def _palette_indices(data: bytes) -> np.ndarray | None:
    try:
        with Image.open(io.BytesIO(data)) as picture:
            return np.array(picture)
    except (OSError, SyntaxError, ValueError):  # Pillow's words for damaged PNGs
        return None


def _undecodable(name: object, data: bytes) -> str:
    what = "is damaged or not a picture" if data else "is empty"
    return f"{name} {what} ({len(data):,} bytes); fetch or unpack that file again"


def read_bytes(path: pathlib.Path, remedy: str = "put it back or correct the data folder") -> bytes:
    """What a file holds. Raises UserError, with the remedy, where it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); {remedy}") from None


def data_folder(folder: str | None, dataset: str, layout: str, inside: tuple[str, ...] = ()) -> pathlib.Path:
    """`folder` as a path, or the first of the folders `inside` it that is there.

    Raises UserError, with the `layout` wanted, where it is not given or not there.
    """
    if not folder:
        raise UserError(
            f"{dataset} needs its data: pass --config.data.dir=FOLDER, where FOLDER holds {layout}"
        )
    path = pathlib.Path(folder).expanduser()
    if not path.is_dir():
        raise UserError(f"{path} is not a folder; --config.data.dir for {dataset} must hold {layout}")
    return next((path / name for name in inside if (path / name).is_dir()), path)


def check_split(split: str, splits: tuple[str, ...], dataset: str) -> None:
    """Raise UserError where the data set has no such split."""
    if split not in splits:
        raise UserError(f"{dataset} has the splits {', '.join(splits)}, not {split!r}")


def paired(
    images: list[pathlib.Path], label_of: dict[pathlib.Path, pathlib.Path], remedy: str
) -> list[tuple[pathlib.Path, pathlib.Path]]:
    """(image, label) of every image. Raises UserError naming the first image whose label is not there."""
    for image in images:
        if not label_of[image].is_file():
            raise UserError(f"{image} has no label {label_of[image]}; {remedy}")
    return [(image, label_of[image]) for image in images]


def read_list(path: pathlib.Path, dataset: str, remedy: str) -> list[str]:
    """The names in a split's list: of each line the first word, without folder and suffix.

    Raises MissingSplit where there is no list, UserError where it is empty or not text.
    """
    try:
        lines = path.read_text().split("\n")
    except FileNotFoundError:
        raise MissingSplit(f"{dataset} has no list {path}; {remedy}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as a list of names ({error}); {remedy}") from None
    names = [pathlib.PurePosixPath(line.split()[0]).stem for line in lines if line.strip()]
    if not names:
        raise UserError(f"{path} names no picture; {remedy}")
    return names
