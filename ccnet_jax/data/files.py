"""Pictures and labels from files, checked: every complaint names the file and the remedy."""

import pathlib
from typing import Protocol

import cv2
import numpy as np

from ccnet_jax.errors import UserError

VOID = 255  # the label of pixels that count nowhere
UNKNOWN = 254  # in a table of label ids: no such id


class Source(Protocol):
    """A data set: random access to pairs, and what their numbers mean.

    `source[i]` is {"image": uint8 [H, W, 3] RGB, "label": uint8 [H, W]}; a label is an index into
    `classes` or 255, which is ignored everywhere.
    """

    classes: tuple[str, ...]
    palette: np.ndarray  # uint8 [len(classes), 3] RGB

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, np.ndarray]: ...

    def name(self, index: int) -> str:
        """A short name of picture `index`, fit for a file name."""


class FolderSource:
    """Pairs of picture and label files.

    Args:
      pairs: (image path, label path) of every sample.
      classes, palette: see `Source`.
      label_ids: [256] uint8 table from the file's values to train ids, `UNKNOWN` for those that the
        data set does not have; None where they are the same.
    """

    def __init__(
        self,
        pairs: list[tuple[pathlib.Path, pathlib.Path]],
        classes: tuple[str, ...],
        palette: np.ndarray,
        label_ids: np.ndarray | None = None,
    ):
        self.pairs, self.classes, self.palette, self.label_ids = pairs, classes, palette, label_ids
        known = range(len(classes)) if label_ids is None else np.flatnonzero(label_ids[:VOID] != UNKNOWN)
        self.highest_label = int(known[-1])

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        image_path, label_path = self.pairs[index]
        image, written = read_image(image_path), read_label(label_path)
        if image.shape[:2] != written.shape:
            raise UserError(
                f"{image_path} is {image.shape[1]}x{image.shape[0]} pixels but its label {label_path} is "
                f"{written.shape[1]}x{written.shape[0]}; make them the same size"
            )
        label = written if self.label_ids is None else self.label_ids[written]
        wrong = (label >= len(self.classes)) & (label != VOID)
        if wrong.any():
            y, x = np.argwhere(wrong)[0]
            raise UserError(
                f"{label_path} holds the label {written[y, x]} at row {y}, column {x}, which is none of its "
                f"data set's labels 0 to {self.highest_label} (or {VOID}, void); correct the file"
            )
        return {"image": image, "label": label}

    def name(self, index: int) -> str:
        return self.pairs[index][0].stem


def read_image(path: pathlib.Path) -> np.ndarray:
    """RGB uint8 [H, W, 3]. Raises UserError where the file cannot be read or decoded."""
    return cv2.cvtColor(_decode(path, _read(path), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def read_label(path: pathlib.Path) -> np.ndarray:
    """uint8 [H, W], the file's own values. Raises UserError where it is no 8-bit single-channel image."""
    data = _read(path)
    label = _decode(path, data, cv2.IMREAD_UNCHANGED)
    if data[:4] == b"\x89PNG" and (data[24] < 8 or data[25] == 3):  # OpenCV has changed the numbers
        kind = "palette" if data[25] == 3 else f"{data[24]}-bit"
        raise UserError(f"{path} is a {kind} PNG; save it as 8-bit grey values that are the class ids")
    if label.ndim != 2 or label.dtype != np.uint8:
        raise UserError(
            f"{path} has shape {label.shape} and type {label.dtype}; a label must be an 8-bit image of one "
            "channel that holds class ids"
        )
    return label


def _read(path: pathlib.Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}); put it back or correct the data folder"
        ) from None


def _decode(path: pathlib.Path, data: bytes, mode: int) -> np.ndarray:
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), mode) if data else None
    if pixels is None:
        raise UserError(f"{path} is not a picture that can be decoded; replace the file")
    return pixels


def data_folder(folder: str | None, dataset: str, layout: str) -> pathlib.Path:
    """`folder` as a path. Raises UserError, with the `layout` wanted, where it is not given or not there."""
    if not folder:
        raise UserError(
            f"{dataset} needs its data: pass --config.data.dir=FOLDER, where FOLDER holds {layout}"
        )
    path = pathlib.Path(folder).expanduser()
    if not path.is_dir():
        raise UserError(f"{path} is not a folder; --config.data.dir for {dataset} must hold {layout}")
    return path
