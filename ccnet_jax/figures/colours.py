"""Class ids as colours, alone and over the picture. Void is hatched."""

import cv2
import numpy as np

from ccnet_jax.common.labels import VOID

HATCH_LINE, HATCH_GROUND = 80, 190  # grey values of the hatching, light enough to differ from black
_PERIOD, _THICKNESS = 8, 3  # of the hatching's lines, in pixels along a row
_LEAST_LUMA = 64  # of the tints in an overlay, 0 to 255
_LUMA = np.array([0.299, 0.587, 0.114])  # of red, green and blue (ITU-R BT.601)


def colourize(label: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """The classes' colours, with void as grey diagonal hatching.

    Args:
      label: class ids [H, W]; 255 is void.
      palette: uint8 [classes, 3] RGB.

    Returns:
      RGB uint8 [H, W, 3]; ids outside the palette are black.
    """
    colours = np.zeros((256, 3), np.uint8)
    colours[: len(palette)] = palette
    label = label.astype(np.uint8)
    return np.where((label == VOID)[..., None], hatching(*label.shape), colours[label])


def overlay(image: np.ndarray, label: np.ndarray, palette: np.ndarray, opacity: float = 0.5) -> np.ndarray:
    """Half the picture plus half its classes' colours, or another share; void is hatching.

    Half the picture plus half of a black class would be a darker picture and nothing more, and the class
    would not be seen. So a colour with a luma below 64 gets as much grey as brings it to 64. Grey keeps the
    hue, and lighter colours stay as they are. Every class thus adds a luma of about 32 or more to half the
    picture.

    Args:
      image: uint8 [H, W, 3] RGB.
      label: class ids [H, W]; 255 is void.
      palette: uint8 [classes, 3] RGB.
      opacity: share of the colours, 0 to 1.

    Returns:
      RGB uint8 [H, W, 3].
    """
    return cv2.addWeighted(image, 1 - opacity, colourize(label, tints(palette)), opacity, 0)


def hatching(height: int, width: int) -> np.ndarray:
    """Grey diagonal hatching, uint8 [height, width, 3]: the sign of void."""
    rows, columns = np.ogrid[:height, :width]
    on_line = (rows + columns) % _PERIOD < _THICKNESS
    grey = np.where(on_line, HATCH_LINE, HATCH_GROUND).astype(np.uint8)
    return np.repeat(grey[..., None], 3, -1)


def tints(palette: np.ndarray) -> np.ndarray:
    """The palette uint8 [classes, 3], its dark colours lifted to a luma of about `_LEAST_LUMA`."""
    missing = np.maximum(_LEAST_LUMA - palette @ _LUMA, 0)
    return np.minimum(palette + np.ceil(missing)[:, None], 255).astype(np.uint8)
