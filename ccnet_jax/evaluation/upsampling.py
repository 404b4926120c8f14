"""Scores and classes of upsampled logits, a block of the picture's rows at a time."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32, UInt8

from ccnet_jax.common.labels import VOID
from ccnet_jax.models.upsampling import Upsampling, split_rows, upsampled_block

BLOCK_BYTES = 2**27  # of full-size float32 logits in one block of rows


def row_blocks(shape: tuple[int, ...], num_classes: int) -> tuple[int, int]:
    """In how many blocks the rows of pictures [B, H, W, 3] are upsampled, and the rows of each block."""
    return split_rows(shape[1], shape[0] * shape[2] * num_classes * 4, BLOCK_BYTES)


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
        block = upsampled_block(logits, upsampling.rows[i], upsampling.columns)
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
    blocks = jax.lax.map(lambda block: largest(upsampled_block(logits, block, columns)), rows)
    return jnp.moveaxis(blocks, 0, 1).reshape(len(logits), -1, len(columns))


@jax.jit
def largest(scores: Float32[Array, "*pixels K"]) -> UInt8[Array, "*pixels"]:
    """The class of the largest score of each pixel; VOID where that is not finite or a score is NaN."""
    best = scores.max(-1)  # NaN where one is
    return jnp.where(jnp.isfinite(best), scores.argmax(-1), VOID).astype(jnp.uint8)
