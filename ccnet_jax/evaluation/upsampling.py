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
from jaxtyping import Array, Float32, UInt8

BLOCK_BYTES = 2**27  # of full-size float32 logits in one block of rows


class Upsampling(NamedTuple):
    """Two matrices that upsample logits [B, h, w, K] to pictures of H x W pixels.

    Attributes:
      rows: float32 [blocks, rows of a block, h]; after the picture's H rows come rows of zeros.
      columns: float32 [W, w].
    """

    rows: jax.Array | np.ndarray
    columns: jax.Array | np.ndarray


def row_blocks(shape: tuple[int, ...], num_classes: int) -> tuple[int, int]:
    """In how many blocks the rows of pictures [B, H, W, 3] are upsampled, and the rows of each block."""
    blocks = -(-shape[0] * shape[1] * shape[2] * num_classes * 4 // BLOCK_BYTES)
    return blocks, -(-shape[1] // blocks)


def upsampling_matrices(
    sizes: Sequence[tuple[int, int]], align_corners: bool, blocks: tuple[int, int]
) -> Upsampling:
    """The matrices that resize logits through all sizes.

    Args:
      sizes: (height, width) of the logits, of what the network saw, and of the picture.
      align_corners: see `resize_bilinear`.
      blocks: from `row_blocks` of the picture.
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


@functools.partial(jax.jit, static_argnames="probabilities", donate_argnames="total")
def add_upsampled(
    total: Float32[Array, "B blocks rows W K"],
    logits: Float32[Array, "B h w K"],
    upsampling: Upsampling | None,
    probabilities: bool,
) -> Float32[Array, "B blocks rows W K"]:
    """`total` plus the upsampled logits, or plus their softmax.

    Args:
      total: float32 [B, blocks, rows of a block, W, K]; its memory is used for the result.
      logits: float32 [B, h, w, K].
      upsampling: None where logits have the picture's size.
      probabilities: add the softmax over the classes.
    """
    scores = jax.nn.softmax if probabilities else lambda logits: logits
    if upsampling is None:
        missing = total.shape[1] * total.shape[2] - logits.shape[1]  # rows of the last block
        padded = jnp.pad(scores(logits), ((0, 0), (0, missing), (0, 0), (0, 0)))
        return total + padded.reshape(total.shape)

    def add_block(i: jax.Array, total: jax.Array) -> jax.Array:
        block = _upsampled_block(logits, upsampling.rows[i], upsampling.columns)
        return total.at[:, i].add(scores(block))

    return jax.lax.fori_loop(0, len(upsampling.rows), add_block, total)


@jax.jit
def largest_upsampled(
    logits: Float32[Array, "B h w K"], upsampling: Upsampling | None
) -> UInt8[Array, "B H W"]:
    """The class of the largest upsampled logit of each pixel; only one block of them is in memory at a time.

    Args:
      logits: float32 [B, h, w, K].
      upsampling: None where logits have the picture's size.

    Returns:
      uint8 [B, blocks * rows of a block, W]; the rows after the picture's H mean nothing.
    """
    if upsampling is None:
        return largest(logits)
    rows, columns = upsampling
    blocks = jax.lax.map(lambda block: largest(_upsampled_block(logits, block, columns)), rows)
    return jnp.moveaxis(blocks, 0, 1).reshape(len(logits), -1, len(columns))


@jax.jit
def largest(scores: Float32[Array, "*pixels K"]) -> UInt8[Array, "*pixels"]:
    """The class of the largest score of each pixel."""
    return scores.argmax(-1).astype(jnp.uint8)


def _upsampled_block(
    logits: jax.Array, rows: jax.Array | np.ndarray, columns: jax.Array | np.ndarray
) -> jax.Array:
    """logits [B, h, w, K], rows [r, h], columns [W, w] -> [B, r, W, K], in full float32 on any device."""
    exact = jax.lax.Precision.HIGHEST
    part = jnp.einsum("rh,bhwk->brwk", rows, logits, precision=exact)
    return jnp.einsum("Ww,brwk->brWk", columns, part, precision=exact)
