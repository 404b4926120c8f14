"""Logits at the size of the labels, a block of rows at a time: a loss never holds them all."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from ccnet_jax.common.labels import VOID
from ccnet_jax.models.resize import split_rows, upsampled_block, upsampling_matrices

BLOCK_BYTES = 2**22  # of one image's full-size float32 logits in one block of rows


@functools.partial(jax.tree_util.register_dataclass, data_fields=["logits"], meta_fields=["align_corners"])
@dataclasses.dataclass(frozen=True)
class UpsampledLogits:
    """Logits as a head gives them, which a loss sees at the images' size.

    Full-size float32 logits of many classes would be most of a training step's memory. `each_pixel` makes
    them for one block of rows at a time, and makes them again in the backward pass.

    Attributes:
      logits: [B, h, w, K], float32 (or float64, in checks).
      align_corners: how they are upsampled; see `resize_bilinear`.
    """

    logits: Float[Array, "B h w K"]
    align_corners: bool = False

    def each_pixel(self, function: Callable[..., Any], labels: Integer[Array, "B H W"]) -> Any:
        """`function` of every pixel's logits and label.

        Args:
          function: (logits [B, rows, W, K], labels [B, rows, W]) -> arrays [B, rows, W], each number of which
            depends on its own pixel only.
          labels: [B, H, W] integer, at the images' size.

        Returns:
          What `function` returns, with arrays [B, H, W].
        """
        batch, height, width = labels.shape
        if self.logits.shape[1:3] == (height, width):
            return function(self.logits, labels)
        count, rows = split_rows(height, width * self.logits.shape[3] * 4, BLOCK_BYTES)
        sizes = [(self.logits.shape[1], self.logits.shape[2]), (height, width)]
        matrices = upsampling_matrices(sizes, self.align_corners, (count, rows), self.logits.dtype)
        padded = jnp.pad(labels, ((0, 0), (0, count * rows - height), (0, 0)), constant_values=VOID)
        blocks = jnp.moveaxis(padded.reshape(batch, count, rows, width), 1, 0)

        @jax.checkpoint
        def block(logits: jax.Array, matrix: jax.Array, labels: jax.Array) -> Any:
            return function(upsampled_block(logits, matrix, matrices.columns), labels)

        found = jax.lax.map(lambda block_of: block(self.logits, *block_of), (matrices.rows, blocks))
        return jax.tree.map(
            lambda x: jnp.moveaxis(x, 0, 1).reshape(batch, count * rows, width)[:, :height], found
        )
