"""Anchors: boxes of a few shapes around every place of a feature map. Paper: Faster R-CNN, section 3.1.1."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32

RATIOS = (0.5, 1.0, 2.0)  # height over width


def level_anchors(
    features: tuple[int, int], strides: tuple[int, int], side: float
) -> Float32[np.ndarray, "n 4"]:
    """Anchors of area side x side at every place of a feature map; their shapes change fastest.

    Args:
      features: (height, width) of the map.
      strides: (down, across), in pixels of the image, from one place to the next; the first is at 0.
      side: of the square anchor, in pixels. Corners around the place are rounded to whole pixels.
    """
    down = np.sqrt(np.array(RATIOS, np.float32))
    sides = np.stack([side / down, side * down], -1).astype(np.float32)  # (width, height) of each shape
    shapes = np.round(np.concatenate([-sides, sides], -1) / 2)
    y, x = (stride * np.arange(n, dtype=np.float32) for n, stride in zip(features, strides, strict=True))
    places = np.stack(np.broadcast_arrays(x, y[:, None], x, y[:, None]), -1)
    return (places[:, :, None] + shapes).reshape(-1, 4).astype(np.float32)


def all_anchors(
    features: Sequence[tuple[int, int]], image: tuple[int, int], sides: Sequence[float]
) -> list[Float32[np.ndarray, "n 4"]]:
    """Anchors of every level.

    Args:
      features: (height, width) of every level's map.
      image: (height, width) in pixels, with padding.
      sides: of each level's square anchor, in pixels.
    """
    return [
        level_anchors(size, (image[0] // size[0], image[1] // size[1]), side)
        for size, side in zip(features, sides, strict=True)
    ]
