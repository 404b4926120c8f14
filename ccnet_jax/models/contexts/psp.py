"""Pyramid pooling, PSPNet's context module."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ccnet_jax.models.contexts.settings import Context, ContextSettings
from ccnet_jax.models.layers import ConvNorm
from ccnet_jax.models.resize import resize_bilinear


class PyramidPooling(nn.Module):
    """Averages over 1, 2, 3 and 6 bins a side, each to C / 4 channels, joined with x and fused by a 3x3."""

    align_corners: bool = False
    negative_slope: float = 0.0
    bins: tuple[int, ...] = (1, 2, 3, 6)
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool) -> Float[Array, "B H W C"]:
        """x: [B, H, W, C] -> [B, H, W, C]."""
        channels = x.shape[-1]
        parts = [x]
        for side in self.bins:
            pooled = adaptive_average_pool(x, side)
            pooled = ConvNorm(
                channels // len(self.bins),
                1,
                negative_slope=self.negative_slope,
                dtype=self.dtype,
                name=f"bin{side}",
            )(pooled, train)
            parts.append(resize_bilinear(pooled, x.shape[1:3], self.align_corners))
        joined = jnp.concatenate(parts, -1)
        return ConvNorm(channels, 3, negative_slope=self.negative_slope, dtype=self.dtype, name="fuse")(
            joined, train
        )


def adaptive_average_pool(x: Float[Array, "B H W C"], side: int) -> Float[Array, "B {side} {side} C"]:
    """[B, H, W, C] -> [B, side, side, C]; bin i begins at floor(i H / side), ends at ceil((i+1) H / side)."""

    def averaging(length: int) -> np.ndarray:
        """[side, length]: the weight of each pixel in each bin."""
        i = np.arange(side)[:, None]
        pixel = np.arange(length)[None]
        inside = (pixel >= i * length // side) & (pixel < -(-(i + 1) * length // side))
        return (inside / inside.sum(1, keepdims=True)).astype(jnp.promote_types(x.dtype, np.float32))

    pooled = jnp.einsum(
        "iy,jx,byxc->bijc",
        averaging(x.shape[1]),
        averaging(x.shape[2]),
        x,
        precision=jax.lax.Precision.HIGHEST,
    )
    return pooled.astype(x.dtype)


def build(settings: ContextSettings, name: str) -> Context:
    """The member of `CONTEXTS`."""
    return PyramidPooling(settings.align_corners, settings.negative_slope, dtype=settings.dtype, name=name)
