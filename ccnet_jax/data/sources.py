"""Images and labels from files, checked: every error message names the file and the remedy."""

import bisect
import dataclasses
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from ccnet_jax.common.errors import UserError
from ccnet_jax.common.fields import setting
from ccnet_jax.common.files import read_file
from ccnet_jax.common.labels import Classes
from ccnet_jax.data.images import decode_sample, read_bytes
from ccnet_jax.data.tiles import TiledImage

Pair = tuple[pathlib.Path, pathlib.Path | None]  # files of an image and of its label, None without one


@dataclasses.dataclass(frozen=True)
class Location:
    """Where the files of a data set lie, and what only the user knows about them."""

    dir: str | None = setting(None, "folder of the data; None for data that are built in", resumable=True)
    images: str | None = setting(
        None,
        "of `folder`: pattern of the image folders below dir, as `img/{split}`",
        resumable=True,
        before=None,
    )
    labels: str | None = setting(
        None,
        "of `folder`: pattern of the label folders below dir, as `ann/{split}`",
        resumable=True,
        before=None,
    )
    classes: tuple[str, ...] | None = setting(
        None, "class names of a `folder` or TFDS data set, in the order of their numbers", before=None
    )
    palette: tuple[tuple[int, int, int], ...] | None = setting(
        None, "(red, green, blue) of each class of a `folder` data set", at_least=0, at_most=255, before=None
    )
    val_fraction: float | None = setting(
        None,
        "of `folder`: fraction of the training images that becomes the split val",
        above=0,
        below=1,
        before=None,
    )
    skip_corrupt: int = setting(
        0,
        "corrupt or missing images of training that are replaced by the next ones of the order, at most",
        at_least=0,
        resumable=True,
        before=0,
    )


class MissingSplit(UserError):
    """The folder or list of a split does not exist: people leave out splits that they do not use."""


class OtherClasses(UserError):
    """`config.data.classes` and the data set's own files do not name the same classes by the same numbers."""


class NoClasses(UserError):
    """Nothing names the classes of a data set, and its labels do not tell how many there are."""


@runtime_checkable
class Source(Protocol):
    """A data set: random access to pairs, and what their numbers mean.

    `source[i]` is {"image": uint8 [H, W, 3] RGB, "label": uint8 [H, W]}; a label is an index into
    `classes` or 255, which is ignored everywhere.
    """

    label_classes: Classes  # names and colours, and what the label files hold
    classes: tuple[str, ...]  # their names
    palette: UInt8[np.ndarray, "classes 3"]  # RGB
    numbers: UInt8[np.ndarray, " classes"]  # what stands for each class in the data set's label files

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, np.ndarray]: ...

    def name(self, index: int) -> str:
        """A short name of image `index`, fit for a file name."""


@runtime_checkable
class FileSource(Source, Protocol):
    """A `Source` that can also give each pair as the bytes of two files, as `prepare` needs them."""

    def read(self, index: int) -> tuple[bytes, bytes | None]:
        """The bytes of the image's file and of its label's, None where there is no label."""


@runtime_checkable
class LazySource(Source, Protocol):
    """A `Source` that can also give each pair without decoding it, so that a crop costs what it shows."""

    def lazy(self, index: int) -> dict[str, TiledImage]:
        """As `source[index]`, with images whose windows are decoded when they are asked for."""


class FolderSource:
    """A `FileSource` of pairs of image and label files.

    Args:
      pairs: (image path, label path) of every sample; None for the label of a test image.
      classes: of the label files.
      remedy: what to do where a label holds what the data set does not have.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        classes: Classes,
        remedy: str = "correct the file",
    ):
        self.pairs, self.label_classes, self.remedy = list(pairs), classes, remedy
        self.classes, self.palette, self.numbers = classes.names, classes.palette, classes.numbers

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        image, label = self.read(index)
        image_name, label_name = self.pairs[index]
        return decode_sample(self.label_classes, image, label, image_name, label_name, self.remedy)

    def read(self, index: int) -> tuple[bytes, bytes | None]:
        """The bytes of the image's file and of its label's. Raises UserError if they cannot be read."""
        image, label = self.pairs[index]
        return read_bytes(image), None if label is None else read_bytes(label)

    def files(self) -> list[pathlib.Path]:
        """Images and labels."""
        return [path for pair in self.pairs for path in pair if path is not None]

    def name(self, index: int) -> str:
        """The name of the image's file, without folder and suffix."""
        return self.pairs[index][0].stem


FOLDER_KEYS = ("images", "labels", "classes", "palette", "val_fraction")


@dataclasses.dataclass(frozen=True)
class DataSet:
    """All that the rest of the program needs to know of a data set.

    Attributes:
      classes: names, colours and label ids; None where they are found in the data.
      splits: names of its splits.
      open: (location, split) -> the images of a split. Raises UserError naming what is missing.
      open_unlabelled: as `open`, of a split whose labels may be missing; None: `open` does that too.
      layout: how the folder must lie; None of a data set that is built in.
      description: where to get it, and how it must lie.
      summary: (images of a split) -> lines on what was found in the files, printed before training. It
        reads labels, and raises UserError where there is nothing to learn. None: nothing is to be said.
      size: (height, width) in pixels of every image; None where they differ.
      task: what its labels are for, a key of `TASKS`: `open` gives what that task trains on.
      keys: those of `config.data` that say what its files are, where `classes` does not.
    """

    classes: Classes | None
    splits: tuple[str, ...]
    open: Callable[[Location, str], Any]
    layout: str | None = None
    description: str = ""
    summary: Callable[[Any], str] | None = None
    size: tuple[int, int] | None = None
    task: str = "semantic"
    open_unlabelled: Callable[[Location, str], Any] | None = None
    keys: tuple[str, ...] = FOLDER_KEYS


class JoinedSource:
    """Several sources of the same classes, one after the other."""

    def __init__(self, parts: Sequence[Source]):
        self.parts, self.label_classes = parts, parts[0].label_classes
        self.classes, self.palette, self.numbers = parts[0].classes, parts[0].palette, parts[0].numbers
        self._starts = [sum(map(len, parts[:i])) for i in range(len(parts))]

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        part, number = self._find(index)
        return part[number]

    def files(self) -> list[pathlib.Path]:
        """The files of all parts."""
        return [path for part in self.parts for path in files_of(part)]

    def name(self, index: int) -> str:
        """The name that the image's own source gives."""
        part, number = self._find(index)
        return part.name(number)

    def _find(self, index: int) -> tuple[Source, int]:
        """The part that holds image `index`, and the image's number there."""
        part = bisect.bisect_right(self._starts, index) - 1
        return self.parts[part], index - self._starts[part]


def files_of(source: object) -> list[pathlib.Path]:
    """The files that a source reads, for programs to leave alone; none where it has no method `files`."""
    tell: Callable[[], list[pathlib.Path]] | None = getattr(source, "files", None)
    return [] if tell is None else tell()


def visible(paths: Iterable[pathlib.Path]) -> list[pathlib.Path]:
    """The paths in order, without hidden ones: macOS leaves ._NAME.jpg beside NAME.jpg, and .DS_Store."""
    return sorted(path for path in paths if not path.name.startswith("."))


def data_folder(folder: str | None, dataset: str, layout: str, inside: tuple[str, ...] = ()) -> pathlib.Path:
    """`folder` as a path, or the first of the folders `inside` it that exists.

    Raises UserError, with the `layout` wanted, where it is not given or does not exist.
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


def pair_files(
    images: list[pathlib.Path], label_of: dict[pathlib.Path, pathlib.Path], remedy: str, may_miss: int = 0
) -> list[Pair]:
    """(image, label) of every image.

    Raises UserError naming the first image whose label does not exist, where more than `may_miss` do not.
    """
    missing = [image for image in images if not label_of[image].is_file()]
    if len(missing) > may_miss:
        raise UserError(f"{missing[0]} has no label {label_of[missing[0]]}; {remedy}")
    return [(image, label_of[image]) for image in images]


def read_lines(path: pathlib.Path, dataset: str, remedy: str) -> list[str]:
    """The lines of a split's list that are not empty.

    Raises MissingSplit where there is no list, UserError where it is empty or not text.
    """
    try:
        lines = read_file(path).decode().split("\n")
    except FileNotFoundError:
        raise MissingSplit(f"{dataset} has no list {path}; {remedy}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as a list of names ({error}); {remedy}") from None
    lines = [line for line in lines if line.strip()]
    if not lines:
        raise UserError(f"{path} names no image; {remedy}")
    return lines


def read_list(path: pathlib.Path, dataset: str, remedy: str) -> list[str]:
    """The names in a split's list: of each line the first word, without folder and suffix.

    Raises MissingSplit and UserError as `read_lines`.
    """
    return [pathlib.PurePosixPath(line.split()[0]).stem for line in read_lines(path, dataset, remedy)]
