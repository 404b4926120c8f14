"""The legend: which colour is which class."""

import cv2
import numpy as np

from ccnet_jax.common.labels import VOID
from ccnet_jax.figures.colours import hatching
from ccnet_jax.figures.text import LINE, shortened, text_width, write

_SWATCH = 16  # pixels, the side of a colour patch
_BESIDE = 30  # pixels of a column that are not the name: the patch and the gaps
_LONGEST = 160  # pixels of a name; a longer one is shortened


def legend(classes: tuple[str, ...], palette: np.ndarray, width: int, used: np.ndarray) -> np.ndarray:
    """A colour patch and a name for each class that occurs, in columns, and a hatched patch for void.

    Args:
      classes, palette: of the data set: names, and uint8 [classes, 3] RGB.
      width: in pixels; names that are too long for it end in an ellipsis.
      used: the class ids that occur; 255 is void.

    Returns:
      RGB uint8 [h, width, 3].
    """
    longest = min(_LONGEST, width - _BESIDE)
    entries = [(shortened(name, longest), _patch(palette[i])) for i, name in enumerate(classes) if i in used]
    if VOID in used:
        entries.append(("void", hatching(_SWATCH, _SWATCH)))
    column = _BESIDE + max((text_width(name) for name, _ in entries), default=0)
    columns = max(1, width // column)
    canvas = np.full((-(-len(entries) // columns) * LINE + 6, width, 3), 255, np.uint8)
    for i, (name, patch) in enumerate(entries):
        x, y = i % columns * column + 4, i // columns * LINE + 4
        canvas[y : y + _SWATCH, x : x + _SWATCH] = patch
        cv2.rectangle(canvas, (x - 1, y - 1), (x + _SWATCH, y + _SWATCH), (128, 128, 128))  # white ones too
        write(canvas, name, x + _SWATCH + 5, y - 4)
    return canvas


def _patch(colour: np.ndarray) -> np.ndarray:
    return np.full((_SWATCH, _SWATCH, 3), colour, np.uint8)
