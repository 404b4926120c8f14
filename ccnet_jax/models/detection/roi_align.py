"""RoIAlign over a feature pyramid. Papers: Mask R-CNN, section 3; FPN, equation 1.

Every cell of a region's grid is the mean of 2 x 2 samples, each of which interpolates four pixels of the
region's level: a sum of sixteen pixels, each with a weight.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int32

from ccnet_jax.models.detection.boxes import area

SAMPLES = 2  # of a cell, on each axis
_SIDE, _LEVEL = 224, 2  # a region of this side in pixels belongs to this level: that of stride 16, P4


def roi_align(
    levels: Sequence[Float[Array, "B _ _ C"]],
    boxes: Float32[Array, "B n 4"],
    cells: int,
    strides: Sequence[int],
) -> Float[Array, "B n cells cells C"]:
    """The features of every region, from the level that fits its size, on a grid of cells x cells.

    Args:
      levels: feature maps, the finest first.
      boxes: regions, in pixels of the image. They stand still: no gradient flows into them.
      cells: of the grid, on each axis.
      strides: pixels of the image for one of each level. A level has twice the stride of the one before.
    """
    boxes = jax.lax.stop_gradient(boxes)
    sizes = np.array([level.shape[1:3] for level in levels], np.int32)
    pixels, weights = all_taps(boxes, cells, sizes, np.array(strides, np.float32))
    flat = jnp.concatenate([level.reshape(level.shape[0], -1, level.shape[-1]) for level in levels], 1)
    return _weighted_pixels(flat, pixels, weights, flat.shape[1])


def level_of(boxes: Float32[Array, "*n 4"], levels: int) -> Int32[Array, "*n"]:
    """The level of each region; 0 is the finest. FPN, equation 1."""
    side = jnp.sqrt(area(boxes))
    level = jnp.floor(_LEVEL + jnp.log2(jnp.maximum(side, 1e-6) / _SIDE) + 1e-6)
    return jnp.clip(level, 0, levels - 1).astype(jnp.int32)


Taps = tuple[Int32[Array, "16 B n cells cells"], Float32[Array, "16 B n cells cells"]]


def all_taps(
    boxes: Float32[Array, "B n 4"],
    cells: int,
    sizes: np.ndarray,
    strides: np.ndarray,
) -> Taps:
    """The sixteen pixels of each cell, as places in the levels one after the other, and their weights."""
    level = level_of(boxes, len(sizes))
    first = np.concatenate([[0], np.cumsum(sizes.prod(1))[:-1]]).astype(np.int32)
    height, width = jnp.moveaxis(jnp.asarray(sizes)[level], -1, 0)
    boxes = boxes / jnp.asarray(strides)[level][..., None]
    rows, row_weights = axis_taps(boxes[..., 1], boxes[..., 3], height, cells)
    columns, column_weights = axis_taps(boxes[..., 0], boxes[..., 2], width, cells)
    start = jnp.asarray(first)[level][..., None, None]
    pixels, weights = [], []
    for row, row_weight in zip(rows, row_weights, strict=True):
        for column, column_weight in zip(columns, column_weights, strict=True):
            pixels.append(start + row[..., :, None] * width[..., None, None] + column[..., None, :])
            weights.append(row_weight[..., :, None] * column_weight[..., None, :])
    return jnp.stack(pixels), jnp.stack(weights)


def axis_taps(
    low: Float32[Array, "B n"], high: Float32[Array, "B n"], length: Int32[Array, "B n"], cells: int
) -> tuple[list[jax.Array], list[jax.Array]]:
    """Of one axis: the pixels that each cell sums, [B, n, cells] each, and their weights.

    A sample up to one pixel outside the map takes the pixel at its edge; beyond that it is 0.
    """
    side = jnp.maximum(high - low, 1.0)[..., None] / cells
    last = length[..., None] - 1
    pixels, weights = [], []
    for sample in range(SAMPLES):
        place = low[..., None] + side * (np.arange(cells) + (sample + 0.5) / SAMPLES).astype(np.float32)
        inside = (place >= -1) & (place <= length[..., None])
        place = jnp.clip(place, 0, last.astype(jnp.float32))
        before = jnp.floor(place).astype(jnp.int32)
        fraction = place - before
        for pixel, weight in ((before, 1 - fraction), (jnp.minimum(before + 1, last), fraction)):
            pixels.append(pixel)
            weights.append(jnp.where(inside, weight, 0) / SAMPLES)
    return pixels, weights


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _weighted_pixels(
    flat: Float[Array, "B p C"],
    pixels: Int32[Array, "16 B n cells cells"],
    weights: Float32[Array, "16 B n cells cells"],
    count: int,
) -> Float[Array, "B n cells cells C"]:
    """The sum of sixteen pixels, of `count` in an image, for each cell; no array holds all sixteen."""
    del count  # for the gradient

    def of_image(flat: jax.Array, pixels: jax.Array, weights: jax.Array) -> jax.Array:
        total = jnp.zeros((*pixels.shape[1:], flat.shape[-1]), jnp.float32)
        for pixel, weight in zip(pixels, weights, strict=True):
            total += weight[..., None] * flat[pixel].astype(jnp.float32)
        return total.astype(flat.dtype)

    return jax.vmap(of_image, (0, 1, 1))(flat, pixels, weights)


def _forward(
    flat: jax.Array, pixels: jax.Array, weights: jax.Array, count: int
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _weighted_pixels(flat, pixels, weights, count), (pixels, weights)


def _backward(
    count: int, kept: tuple[jax.Array, jax.Array], change: jax.Array
) -> tuple[jax.Array, None, None]:
    """Every cell's change is added to its sixteen pixels, one of the sixteen after the other, in float32."""

    def of_image(pixels: jax.Array, weights: jax.Array, change: jax.Array) -> jax.Array:
        def add_tap(total: jax.Array, tap: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
            pixel, weight = tap
            return total.at[pixel].add(weight[..., None] * change.astype(jnp.float32)), None

        return jax.lax.scan(add_tap, jnp.zeros((count, change.shape[-1])), (pixels, weights))[0]

    flat = jax.vmap(of_image, (1, 1, 0))(*kept, change)
    return flat.astype(change.dtype), None, None


_weighted_pixels.defvjp(_forward, _backward)
