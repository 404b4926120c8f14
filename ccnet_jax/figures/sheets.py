"""A contact sheet: many small pictures with their labels."""

import cv2
import numpy as np

from ccnet_jax.figures.colours import overlay
from ccnet_jax.figures.legends import legend
from ccnet_jax.figures.panels import LEAST_WIDTH
from ccnet_jax.figures.sizes import fitted_size, padded, resized, resized_label
from ccnet_jax.figures.text import text_block

_SMALLEST = 96  # pixels: a picture's longer side in the sheet is this or more
_GAP = 6  # pixels between pairs


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
    cells += [np.full_like(cells[0], 255)] * (-len(cells) % columns)
    rows = [np.concatenate(cells[i : i + columns], 1) for i in range(0, len(cells), columns)]
    sheet = padded(np.concatenate(rows), 0, LEAST_WIDTH)
    title = text_block([f"{len(images)} crops of {images.shape[2]}x{images.shape[1]} pixels"], sheet.shape[1])
    return np.concatenate([title, sheet, legend(classes, palette, sheet.shape[1], np.unique(labels))])
