"""Logits upsampled to the pictures' own size, a block of rows at a time.

Bilinear resizing is linear in each direction: upsampled logits are rows times logits times columns, with one
matrix for each direction. A block of the first matrix's rows gives a block of the picture's rows, so that the
full-size logits of many classes never lie in memory at once.
"""

import functools
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32


class Upsampling(NamedTuple):
    """Two matrices that upsample logits [B, h, w, K] to pictures of H x W pixels.

    Attributes:
      rows: float32 [blocks, rows of a block, h]; after the picture's H rows come rows of zeros.
      columns: float32 [W, w].
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
    sizes: Sequence[tuple[int, int]], align_corners: bool, blocks: tuple[int, int]
) -> Upsampling:
    """The matrices that resize logits through all sizes.

    Args:
      sizes: (height, width) of the logits, of what the network saw, and of the picture.
      align_corners: see `resize_bilinear`.
      blocks: from `split_rows` of the picture's.
    """
    heights, widths = zip(*sizes, strict=True)
    rows, columns = resizing_matrix(heights, align_corners), resizing_matrix(widths, align_corners)
    count, rows_of_a_block = blocks
    rows = np.pad(rows, ((0, count * rows_of_a_block - len(rows)), (0, 0)))
    return Upsampling(rows.reshape(count, rows_of_a_block, -1), columns)


@functools.lru_cache(maxsize=64)
def resizing_matrix(sides: tuple[int, ...], align_corners: bool) -> Float32[np.ndarray, "last first"]:
    """Weights that resize a side of sides[0] pixels to sides[1], ..., sides[-1], as `resize_bilinear` does.

    Args:
      sides: two or more lengths in pixels.
      align_corners: True puts the centres of the first and last pixels on one another; False the edges.

    Returns:
      float32 [sides[-1], sides[0]], whose rows sum to 1.
    """
    weights = np.eye(sides[0])
    for side, out in itertools.pairwise(sides):
        if align_corners:
            position = np.arange(out) * (side - 1) / max(out - 1, 1)
        else:
            position = np.clip((np.arange(out) + 0.5) * side / out - 0.5, 0, side - 1)
        distance = np.abs(position[:, None] - np.arange(side))
        weights = np.maximum(1 - distance, 0) @ weights if side != out else weights
    return weights.astype(np.float32)


def upsampled_block(
    logits: Float32[Array, "B h w K"],
    rows: Float32[Array | np.ndarray, "r h"],
    columns: Float32[Array | np.ndarray, "W w"],
) -> Float32[Array, "B r W K"]:
    """logits [B, h, w, K], rows [r, h], columns [W, w] -> [B, r, W, K], in full float32 on any device."""
    exact = jax.lax.Precision.HIGHEST
    part = jnp.einsum("rh,bhwk->brwk", rows, logits, precision=exact)
    return jnp.einsum("Ww,brwk->brWk", columns, part, precision=exact)
