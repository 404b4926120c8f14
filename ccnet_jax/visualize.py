"""What a pixel attends to, and the figures of `ccnet_jax.figures`."""

from typing import Any

import numpy as np

from ccnet_jax.attention import attention_maps
from ccnet_jax.figures import (
    attention_figure,
    colourize,
    comparison,
    contact_sheet,
    overlay,
    prediction_figure,
    save_grey,
    save_labels,
    save_picture,
    side_by_side,
)

__all__ = [
    "attention_figure",
    "attention_map",
    "colourize",
    "comparison",
    "contact_sheet",
    "overlay",
    "prediction_figure",
    "save_grey",
    "save_labels",
    "save_picture",
    "side_by_side",
]


def attention_map(model: Any, image: np.ndarray, point: tuple[int, int]) -> np.ndarray:
    """What a pixel attends to after each loop, float32 [loops, h, w]; see `attention.attention_maps`.

    Args:
      model: a `Model` with the context "rcca".
      image: uint8 [H, W, 3] RGB.
      point: (row, column) in the picture.
    """
    return attention_maps(model.network, model.variables, image, point)
