"""Images with objects: what a data set of instances gives, and the form in which training takes it."""

import dataclasses
from typing import Protocol, runtime_checkable

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Int32, UInt8

MASK_CELLS = 56  # on each axis of an object's box: twice those of the network's masks


@dataclasses.dataclass(frozen=True)
class Objects:
    """The objects of one image.

    Attributes:
      boxes: (x0, y0, x1, y1) in pixels; the image's upper left corner is (0, 0).
      classes: indices into the data set's classes.
      masks: which pixels of the image are each object's.
      crowd: whether it stands for many objects that nobody told apart: training does not see it, and
        detections in it count neither as right nor as wrong.
      areas: in pixels, as the data set gives them: by them objects are small, medium or large.
    """

    boxes: Float32[np.ndarray, "n 4"]
    classes: Int32[np.ndarray, " n"]
    masks: list[UInt8[np.ndarray, "H W"]]
    crowd: Bool[np.ndarray, " n"]
    areas: Float32[np.ndarray, " n"]


@runtime_checkable
class InstanceSource(Protocol):
    """A data set: random access to images with objects.

    `source[i]` is {"image": uint8 [H, W, 3] RGB}.
    """

    classes: tuple[str, ...]
    palette: UInt8[np.ndarray, "classes 3"]
    class_ids: tuple[int, ...]  # the data set's own numbers of the classes

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, np.ndarray]: ...

    def name(self, index: int) -> str:
        """A short name of image `index`, fit for a file name."""

    def image_id(self, index: int) -> int:
        """The data set's own number of image `index`."""

    def size(self, index: int) -> tuple[int, int]:
        """(height, width) of image `index`, which need not be decoded for it."""

    def count(self, index: int) -> int | None:
        """How many objects image `index` has to train on, without crowds; None where that takes long."""

    def objects(self, index: int) -> Objects:
        """The objects of image `index`."""


def cell_fractions(
    mask: UInt8[np.ndarray, "H W"], box: Float32[np.ndarray, " 4"], cells: int = MASK_CELLS
) -> UInt8[np.ndarray, "cells cells"]:
    """How much of each cell of a box an object covers, as a fraction of 255.

    Args:
      mask: 1 where the image's pixel is the object's.
      box: its sides are divided into equal cells; pixels that a cell's edge cuts count in part.
      cells: on each axis.
    """
    sums = cv2.integral(mask).astype(np.float64)
    for axis, low, high in ((0, box[1], box[3]), (1, box[0], box[2])):
        edges = np.clip(np.linspace(low, high, cells + 1), 0, mask.shape[axis])
        before = np.minimum(edges.astype(int), mask.shape[axis] - 1)
        fraction = np.expand_dims(edges - before, 1 - axis)
        sums = (1 - fraction) * sums.take(before, axis) + fraction * sums.take(before + 1, axis)
        sums = np.diff(sums, axis=axis)
    area = (box[2] - box[0]) * (box[3] - box[1]) / cells**2
    return np.clip(np.rint(255 * sums / max(area, 1e-6)), 0, 255).astype(np.uint8)
