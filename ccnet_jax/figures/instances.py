"""Instances over their picture: masks in their classes' colours, boxes, names and scores."""

import cv2
import numpy as np

from ccnet_jax.figures.colours import tints
from ccnet_jax.figures.panels import arranged
from ccnet_jax.figures.sizes import is_stacked, panel_size, resized, resized_label
from ccnet_jax.figures.text import text_block, text_width

_LINE = 2  # pixels, of a box


def instance_overlay(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
    masks: np.ndarray,
    classes: tuple[str, ...],
    palette: np.ndarray,
    scores: np.ndarray | None = None,
) -> np.ndarray:
    """The picture with instances, the first one uppermost, at the size of a figure's panel.

    Args:
      image: uint8 [H, W, 3] RGB.
      boxes: [n, 4] (x0, y0, x1, y1) in the picture's pixels.
      labels: [n] class indices.
      masks: [n, H, W], which pixels are each instance's.
      classes, palette: of the network: names, and uint8 [classes, 3] RGB.
      scores: [n] from 0 to 1; None writes names alone.

    Returns:
      RGB uint8, its longer side 320 to 1280 pixels.
    """
    size = panel_size(*image.shape[:2])
    canvas = resized(image, size).copy()
    colours = tints(palette)
    zoom = np.array([size[1] / image.shape[1], size[0] / image.shape[0]] * 2)
    order = range(len(boxes) - 1, -1, -1)
    for i in order:
        mask = resized_label(masks[i], size).astype(bool)
        canvas[mask] = (canvas[mask].astype(np.int32) + colours[labels[i]]) // 2
        contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(canvas, contours, -1, colours[labels[i]].tolist(), 1)
    for i in order:
        x0, y0, x1, y1 = (boxes[i] * zoom).round().astype(int).tolist()
        cv2.rectangle(canvas, (x0, y0), (x1 - 1, y1 - 1), colours[labels[i]].tolist(), _LINE)
        name = classes[labels[i]] if scores is None else f"{classes[labels[i]]} {scores[i]:.2f}"
        _write_beside(canvas, name, x0, y0)
    return canvas


def instance_comparison(drawn: dict[str, np.ndarray]) -> np.ndarray:
    """Overlays of one picture {title: uint8 [h, w, 3]} under their titles."""
    first = next(iter(drawn.values()))
    return arranged(drawn, is_stacked(*first.shape[:2]))


def _write_beside(canvas: np.ndarray, text: str, x: int, y: int) -> None:
    """Text on white above the point (x, y), or below it at the upper edge, within the canvas."""
    block = text_block([text], min(text_width(text) + 8, canvas.shape[1]))
    height, width = min(block.shape[0], canvas.shape[0]), block.shape[1]
    top = y - height if y >= height else y
    top, left = (
        int(np.clip(start, 0, end))
        for start, end in ((top, canvas.shape[0] - height), (x, canvas.shape[1] - width))
    )
    canvas[top : top + height, left : left + width] = block[:height]
