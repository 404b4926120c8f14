"""Images that a user hands to a network: read, and checked."""

import os
import pathlib
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8

from ccnet_jax.common.errors import UserError
from ccnet_jax.data.images import decode_image, read_bytes


def image_name(image: Any) -> object:
    """What to call what `read_image` takes: the path, or words for an array."""
    return image if isinstance(image, str | os.PathLike) else "this image"


def read_image(image: str | os.PathLike | np.ndarray | jax.Array) -> UInt8[np.ndarray, "H W 3"]:
    """The pixels of a file, or of an array that is an image already.

    Args:
      image: a file's path, in which "~" is the user's home, or uint8 [H, W, 3] RGB.

    Raises:
      UserError: the file cannot be read, or the array is not such an image.
    """
    if isinstance(image, str | os.PathLike):
        path = pathlib.Path(image).expanduser()
        return decode_image(read_bytes(path, "correct the path"), path)
    pixels = np.asarray(image)
    if pixels.ndim != 3 or pixels.shape[-1] != 3 or pixels.dtype != np.uint8:
        raise UserError(
            f"an image must be uint8 [H, W, 3] RGB, not {pixels.dtype} {list(pixels.shape)}; convert it"
        )
    if pixels.size == 0:
        raise UserError(f"an image of shape {list(pixels.shape)} is empty; pass one with pixels")
    return pixels
