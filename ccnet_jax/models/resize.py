"""Bilinear resizing, whole or a block of rows at a time.

Bilinear resizing is linear in each direction: upsampled logits are rows times logits times columns, with one
matrix for each direction. A block of the first matrix's rows gives a block of the image's rows, so that the
full-size logits of many classes never lie in memory at once.
"""

import functools
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Float64


def resize_bilinear(
    x: Float[Array, "B h w C"], size: Sequence[int], align_corners: bool
) -> Float[Array, "B H W C"]:
    """Bilinear resizing without antialiasing, as PyTorch's `interpolate`.

    Args:
      x: [B, h, w, C].
      size: (height, width) of the result.
      align_corners: True puts the centres of the corner pixels on one another; False the image's edges.

    Returns:
      [B, height, width, C] in x's dtype.
    """
    if x.shape[1:3] == tuple(size):
        return x
    wide = jnp.promote_types(x.dtype, jnp.float32)
    rows, columns = (
        bilinear_weights(side, out, align_corners, wide).astype(x.dtype)
        for side, out in zip(x.shape[1:3], size, strict=True)
    )
    return upsampled_block(x, rows, columns)


class Upsampling(NamedTuple):
    """Two matrices that upsample logits [B, h, w, K] to images of H x W pixels.

    Attributes:
      rows: [blocks, rows of a block, h] in the logits' dtype; after the image's H rows come rows of zeros.
      columns: [W, w] in the logits' dtype.
    """

    rows: jax.Array | np.ndarray
    columns: jax.Array | np.ndarray


def split_rows(height: int, row_bytes: int, block_bytes: int) -> tuple[int, int]:
    """In how many blocks `height` rows of `row_bytes` are upsampled, and the rows of each block.

    A block has about `block_bytes`, and at least one row. The blocks have as many rows or a few more.
    """
    blocks = -(-height * row_bytes // block_bytes)
    rows = -(-height // blocks)
    return -(-height // rows), rows


def upsampling_matrices(
    sizes: Sequence[tuple[int, int]],
    align_corners: bool,
    blocks: tuple[int, int],
    dtype: DTypeLike = np.float32,
) -> Upsampling:
    """The matrices that resize logits through all sizes.

    Args:
      sizes: (height, width) of the logits, of what the network saw, and of the image.
      align_corners: see `resize_bilinear`.
      blocks: from `split_rows` of the image's.
      dtype: of the logits.
    """
    rows, columns = (
        resizing_matrix(sides, align_corners).astype(dtype) for sides in zip(*sizes, strict=True)
    )
    count, rows_of_a_block = blocks
    rows = np.pad(rows, ((0, count * rows_of_a_block - len(rows)), (0, 0)))
    return Upsampling(rows.reshape(count, rows_of_a_block, -1), columns)


@functools.lru_cache(maxsize=64)
def resizing_matrix(sides: tuple[int, ...], align_corners: bool) -> Float64[np.ndarray, "last first"]:
    """Weights that resize a side of sides[0] pixels to sides[1], ..., sides[-1], as `resize_bilinear` does.

    Args:
      sides: two or more lengths in pixels.
      align_corners: True puts the centres of the first and last pixels on one another; False the edges.

    Returns:
      float64 [sides[-1], sides[0]], whose rows sum to 1.
    """
    weights = np.eye(sides[0])
    for side, out in itertools.pairwise(sides):
        fractions, whole = _fractions(side, out, align_corners, np)
        weights = fractions / whole @ weights if side != out else weights
    return weights


def bilinear_weights(
    side: int, out: int, align_corners: bool, dtype: DTypeLike = jnp.float32
) -> Float[Array | np.ndarray, "out side"]:
    """`resizing_matrix` of one step, also for sides that are known only when the program runs.

    The weights of symbolic sides (`jax.export.symbolic_shape`) are those of the same sides as numbers, in
    every bit: whole numbers up to the last division, which XLA would make a product with 1 / whole if it saw
    that all divisors are one.
    """
    if isinstance(side, int) and isinstance(out, int):
        return resizing_matrix((side, out), align_corners).astype(dtype)
    fractions, whole = _fractions(side, out, align_corners, jnp)
    divisors = jax.lax.optimization_barrier(jnp.full(fractions.shape, whole, dtype))
    return fractions.astype(dtype) / divisors


def _fractions(side: int, out: int, align_corners: bool, numpy: Any) -> tuple[Any, Any]:
    """Weights [out, side] of a resizing as whole numbers, and what they are to be divided by.

    numpy: NumPy, or JAX's.
    """
    i, j = numpy.expand_dims(numpy.arange(out), 1), numpy.arange(side)
    if align_corners:  # pixel i lies at i (side - 1) / (out - 1)
        whole = jax.core.max_dim(out - 1, 1)
        position = i * (side - 1)
    else:  # at (i + 1/2) side / out - 1/2, but not outside
        whole = 2 * out
        position = numpy.clip((2 * i + 1) * side - out, 0, whole * (side - 1))
    return numpy.maximum(whole - abs(position - j * whole), 0), whole


def upsampled_block(
    logits: Float[Array, "B h w K"],
    rows: Float[Array | np.ndarray, "r h"],
    columns: Float[Array | np.ndarray, "W w"],
) -> Float[Array, "B r W K"]:
    """logits [B, h, w, K], rows [r, h], columns [W, w] -> [B, r, W, K]; of float32 without TF32."""
    exact = jax.lax.Precision.HIGHEST
    part = jnp.einsum("rh,bhwk->brwk", rows, logits, precision=exact)
    return jnp.einsum("Ww,brwk->brWk", columns, part, precision=exact)
