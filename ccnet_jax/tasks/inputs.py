"""The check of what a user calls a trained network with."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ccnet_jax.common.errors import UserError
from ccnet_jax.models.ccnet import check_images


def check_batch(images: Any) -> None:
    """Raise UserError where a batch of images is not what the network takes."""
    if not isinstance(images, jax.Array | np.ndarray):
        raise UserError(
            f"images must be an array, uint8 RGB [B, H, W, 3], not a {type(images).__name__}; pass, for "
            "example, np.stack(images)"
        )
    try:
        check_images(images)
    except (ValueError, TypeError) as error:
        raise UserError(str(error)) from None
    if images.dtype != jnp.uint8 and not isinstance(images, jax.core.Tracer):  # traced arrays have no values
        _check_range(images)


def _check_range(images: jax.Array | np.ndarray) -> None:
    """Raise UserError where floating images do not look like values from 0 to 255.

    A black image passes: it is the same whether white is 1 or 255. Values up to half a grey level outside
    0 to 255 pass too: resizing makes them.
    """
    lowest, highest = float(images.min()), float(images.max())
    if not (np.isfinite(lowest) and np.isfinite(highest)):
        remedy = ", but must be finite; correct them"
    elif lowest < -0.5:
        remedy = " and look normalised; pass them as they were before, since the network normalises them"
    elif highest <= 1.5 and (lowest, highest) != (0, 0):
        remedy = ", as if white were 1, but the network takes 0 to 255; multiply them by 255"
    elif highest > 255.5:
        remedy = ", but the network takes 0 to 255; scale them"
    else:
        return
    raise UserError(f"images are {images.dtype} from {lowest:.3g} to {highest:.3g}{remedy}")
