"""What one pixel attends to, drawn over the picture: the paper's Figure 6."""

import cv2
import numpy as np

from ccnet_jax.figures.panels import arranged
from ccnet_jax.figures.sizes import is_stacked, panel_size, resized
from ccnet_jax.figures.text import LINE, text_block, text_width, wrapped, write

_BAR_WIDTH, _BAR_HEIGHT = 256, 14  # pixels of the colour scale
_PICTURE = 0.4  # the share of the picture's grey in a map; the rest is the scale's colour


def attention_figure(image: np.ndarray, maps: np.ndarray, point: tuple[int, int]) -> np.ndarray:
    """The picture, then what the point attends to after each loop, then a colour scale: the paper's Figure 6.

    A white cross with a black outline marks the point in every panel. The colour shows the square root of a
    weight's share of the panel's largest weight, from black (0) to light yellow (1). The root makes weights
    visible that are a hundredth of the largest, as most are after two loops. The lightness of the colours
    grows evenly with the value.

    Args:
      image: uint8 [H, W, 3] RGB.
      maps: floating [loops, h, w], attention weights that are not negative, of features of any size.
      point: (row, column) in the picture.

    Returns:
      RGB uint8, of the size that `side_by_side` describes, plus the scale.
    """
    height, width = image.shape[:2]
    size = panel_size(height, width)
    small = resized(image, size)
    at = int((point[0] + 0.5) * size[0] / height), int((point[1] + 0.5) * size[1] / width)
    panels = {"picture": _marked(small, at)}
    for loops, weights in enumerate(maps, 1):
        largest = float(weights.max())
        root = np.sqrt(weights / max(largest, 1e-12)).astype(np.float32)
        title = f"{loops} loop{'s' * (loops > 1)}, max {largest:.2g}"
        panels[title] = _marked(_heat(small, resized(root, size)), at)
    figure = arranged(panels, is_stacked(height, width))
    return np.concatenate([figure, _scale(figure.shape[1])])


def _heat(image: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The picture [H, W, 3] in grey, so that no colour of its own mixes in, under the colours of `values`.

    `values` [H, W] are from 0 to 1.
    """
    colours = cv2.applyColorMap(np.round(255 * values).astype(np.uint8), cv2.COLORMAP_INFERNO)
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return cv2.addWeighted(grey, _PICTURE, cv2.cvtColor(colours, cv2.COLOR_BGR2RGB), 1 - _PICTURE, 0)


def _marked(picture: np.ndarray, at: tuple[int, int]) -> np.ndarray:
    """The picture [H, W, 3] with a white cross, outlined in black, at `at` (row, column)."""
    side = max(min(picture.shape[:2]) // 12, 15)
    marked = picture.copy()
    cv2.drawMarker(marked, at[::-1], (0, 0, 0), cv2.MARKER_CROSS, side + 4, 7)
    cv2.drawMarker(marked, at[::-1], (255, 255, 255), cv2.MARKER_CROSS, side, 3)
    return marked


def _scale(width: int) -> np.ndarray:
    """The colour scale with its ends named, RGB uint8 [h, width, 3], its colours as they are on mid-grey."""
    grey = np.full((_BAR_HEIGHT, _BAR_WIDTH, 3), 128, np.uint8)
    values = np.tile(np.linspace(0, 1, _BAR_WIDTH, dtype=np.float32), (_BAR_HEIGHT, 1))
    strip = np.full((LINE + 6, width, 3), 255, np.uint8)
    left = 8 + text_width("0")
    strip[8 : 8 + _BAR_HEIGHT, left : left + _BAR_WIDTH] = _heat(grey, values)
    write(strip, "0", 4, 4)
    write(strip, "max", left + _BAR_WIDTH + 4, 4)
    words = "colour: the square root of weight / max, with the largest weight of each panel as max"
    return np.concatenate([strip, text_block(wrapped(words, width - 8), width)])
