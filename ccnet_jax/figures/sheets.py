"""A contact sheet: many small pictures with their labels."""

from collections.abc import Sequence

import cv2
import numpy as np

from ccnet_jax.figures.colours import overlay
from ccnet_jax.figures.legends import legend
from ccnet_jax.figures.panels import LEAST_WIDTH
from ccnet_jax.figures.sizes import fitted_size, padded, resized, resized_label
from ccnet_jax.figures.text import text_block

_SMALLEST = 96  # pixels: a picture's longer side in the sheet is this or more
_GAP = 6  # pixels between pairs


def picture_sheet(pictures: Sequence[np.ndarray], title: str, width: int = 1600) -> np.ndarray:
    """Pictures in rows below a title: RGB uint8, the largest side of each at most a third of `width`."""
    height, side = (max(picture.shape[axis] for picture in pictures) for axis in (0, 1))
    zoom = min(1.0, width / 3 / max(height, side))
    cells = []
    for picture in pictures:
        small = resized(picture, (round(picture.shape[0] * zoom), round(picture.shape[1] * zoom)))
        cells.append(padded(small, round(height * zoom) + _GAP, round(side * zoom) + _GAP))
    columns = max(1, min(len(cells), width // cells[0].shape[1]))
    return _titled([title], _in_rows(cells, columns))


def _in_rows(cells: list[np.ndarray], columns: int) -> np.ndarray:
    """Pictures of one size in rows; what is missing is white."""
    cells = cells + [np.full_like(cells[0], 255)] * (-len(cells) % columns)
    rows = [np.concatenate(cells[i : i + columns], 1) for i in range(0, len(cells), columns)]
    return padded(np.concatenate(rows), 0, LEAST_WIDTH)


def _titled(lines: list[str], sheet: np.ndarray) -> np.ndarray:
    """The sheet below lines of text."""
    return np.concatenate([text_block(lines, sheet.shape[1]), sheet])


def contact_sheet(
    images: np.ndarray, labels: np.ndarray, classes: tuple[str, ...], palette: np.ndarray, width: int = 1600
) -> np.ndarray:
    """Pictures in rows, each beside itself with its labels over it, above the legend.

    Args:
      images: uint8 [N, H, W, 3] RGB, one or more.
      labels: class ids [N, H, W]; 255 is void, which is hatched.
      classes, palette: of the data set: names, and uint8 [classes, 3] RGB.
      width: about the largest width of the sheet in pixels; a picture's side is at most a quarter of it.

    Returns:
      RGB uint8.
    """
    size = fitted_size(labels.shape[1], labels.shape[2], _SMALLEST, width // 4)
    columns = max(1, min(len(images), width // (2 * size[1])))
    cells = []
    for image, label in zip(images, labels, strict=True):
        small = resized(image, size)
        pair = np.concatenate([small, overlay(small, resized_label(label, size), palette)], 1)
        cells.append(cv2.copyMakeBorder(pair, 0, _GAP, 0, _GAP, cv2.BORDER_CONSTANT, value=(255, 255, 255)))
    title = f"{len(images)} crops of {images.shape[2]}x{images.shape[1]} pixels"
    sheet = _titled([title], _in_rows(cells, columns))
    return np.concatenate([sheet, legend(classes, palette, sheet.shape[1], np.unique(labels))])
