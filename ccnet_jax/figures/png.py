"""PNGs of labels and images, as bytes and as files that are written whole."""

import io
import pathlib
from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image

from ccnet_jax.common.errors import write_whole
from ccnet_jax.common.labels import VOID
from ccnet_jax.figures.canvas import HATCH_GROUND

_LEVEL = 3  # of compression, 0 to 9; figures are much larger at OpenCV's own, and higher ones take long


def save_labels(path: pathlib.Path, label: np.ndarray, palette: np.ndarray, numbers: Sequence[int]) -> None:
    """Write a label map as a palette PNG: its pixels are the classes' numbers, shown in their colours.

    Args:
      path: of the file; its folder is made.
      label: indices of classes [H, W]; 255 is void, which is shown in grey.
      palette: uint8 [classes, 3] RGB.
      numbers: what stands for each class in the label files of the data set, 0 to 255.

    Raises:
      UserError: the file cannot be written.
    """
    write_whole(path, labels_png(label, palette, numbers))


def save_image(path: pathlib.Path, image: np.ndarray) -> None:
    """Write RGB uint8 [H, W, 3] as a PNG, making its folder. Raises UserError where it cannot be written."""
    write_whole(path, image_png(image))


def labels_png(label: np.ndarray, palette: np.ndarray, numbers: Sequence[int]) -> bytes:
    """The bytes of the file that `save_labels` writes; arguments as there."""
    colours = np.zeros(
        (256, 3), np.uint8
    )  # all 256: with fewer, Pillow packs pixels in fewer bits, without 255
    colours[VOID] = HATCH_GROUND
    colours[list(numbers)] = palette
    number_of = np.full(256, VOID, np.uint8)
    number_of[: len(numbers)] = numbers
    image = Image.fromarray(number_of[label], "P")
    image.putpalette(colours.tobytes())
    file = io.BytesIO()
    image.save(file, "png")
    return file.getvalue()


def image_png(image: np.ndarray) -> bytes:
    """The bytes of a PNG of RGB uint8 [H, W, 3]."""
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".png", bgr, [cv2.IMWRITE_PNG_COMPRESSION, _LEVEL])[1].tobytes()


def save_grey(path: pathlib.Path, values: np.ndarray) -> None:
    """Write uint8 [H, W] as a grey PNG, making its folder. Raises UserError where it cannot be written."""
    write_whole(path, cv2.imencode(".png", values)[1].tobytes())
