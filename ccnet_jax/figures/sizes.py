"""The sizes that pictures have in figures: small ones are enlarged, large ones reduced."""

import cv2
import numpy as np

LEAST_SIDE = 32  # pixels: room for a mark of attention and for the hatching
_SMALLEST = 320  # a panel's longer side is this or more
_LARGEST_IN_ROW, _LARGEST_IN_STACK = 640, 1280  # a panel's longer side is this or less


def is_stacked(height: int, width: int) -> bool:
    """Whether panels of such pictures stand one below the other: three in a row would be a thin strip."""
    return width > 2.5 * height


def panel_size(height: int, width: int) -> tuple[int, int]:
    """(height, width) in a figure's panel, for a picture of this size; see `fitted_size`."""
    return fitted_size(
        height, width, _SMALLEST, _LARGEST_IN_STACK if is_stacked(height, width) else _LARGEST_IN_ROW
    )


def fitted_size(height: int, width: int, smallest: int, largest: int) -> tuple[int, int]:
    """A size with the longer side between `smallest` and about `largest`, in pixels.

    A picture is enlarged by a whole number, so that its pixels stay squares of one size. No side is shorter
    than `LEAST_SIDE`: a picture that is many times longer than wide loses its proportions, because otherwise
    it would be a line of one pixel.
    """
    longer = max(height, width)
    zoom = -(-smallest // longer) if longer < smallest else min(1, largest / longer)
    return max(LEAST_SIDE, round(height * zoom)), max(LEAST_SIDE, round(width * zoom))


def resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A picture [H, W] or [H, W, 3] at the size (height, width): pixels are averaged or repeated."""
    height, width = image.shape[:2]
    reduced = min(width, size[1]), min(height, size[0])
    if reduced != (width, height):
        image = cv2.resize(image, reduced, interpolation=cv2.INTER_AREA)
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)


def resized_label(label: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Class ids [H, W] at the size (height, width), uint8: each pixel has the id of the nearest one."""
    return cv2.resize(label.astype(np.uint8), size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)


def padded(canvas: np.ndarray, height: int, width: int) -> np.ndarray:
    """The canvas uint8 [h, w, 3] with white below and right of it, at least `height` by `width`."""
    below, right = max(height - canvas.shape[0], 0), max(width - canvas.shape[1], 0)
    return np.pad(canvas, ((0, below), (0, right), (0, 0)), constant_values=255)
