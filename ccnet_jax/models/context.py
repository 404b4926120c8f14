"""What RCCA is compared with in the paper's Table 4: modules of [B, H, W, C] -> [B, H, W, C]."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ccnet_jax.models.criss_cross import RCCA
from ccnet_jax.models.layers import ConvNorm, resize_bilinear

CONTEXTS = ("none", "rcca", "psp", "aspp", "nonlocal")


class PyramidPooling(nn.Module):
    """PSPNet's: averages over 1, 2, 3 and 6 bins a side, each to C / 4, joined with x and fused by a 3x3."""

    align_corners: bool = False
    negative_slope: float = 0.0
    bins: tuple[int, ...] = (1, 2, 3, 6)
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
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


class AtrousPyramid(nn.Module):
    """DeepLabv3's: a 1x1, 3x3s dilated by 12, 24, 36 (stride 8), the image's average; fused by a 1x1."""

    negative_slope: float = 0.0
    dilations: tuple[int, ...] = (12, 24, 36)
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """x: [B, H, W, C] -> [B, H, W, C]."""
        channels = x.shape[-1]

        def branch(size: int, dilation: int, name: str) -> ConvNorm:
            return ConvNorm(
                channels,
                size,
                dilation=dilation,
                negative_slope=self.negative_slope,
                dtype=self.dtype,
                name=name,
            )

        image = branch(1, 1, "image")(x.mean((1, 2), keepdims=True), train)
        parts = [branch(1, 1, "point")(x, train)]
        parts += [branch(3, d, f"dilated{d}")(x, train) for d in self.dilations]
        parts.append(jnp.broadcast_to(image, parts[0].shape))
        return branch(1, 1, "fuse")(jnp.concatenate(parts, -1), train)


class NonLocal(nn.Module):
    """gamma * attention over all H x W pixels + x: the dense counterpart of `CrissCrossAttention`.

    D = C / 8 keys, C values, no projection after, so that only the attention differs from RCCA's.
    """

    reduction: int = 8
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x: [B, H, W, C] -> [B, H, W, C]."""
        channels = x.shape[-1]
        keys = max(channels // self.reduction, 1)
        query = nn.Dense(keys, dtype=self.dtype, name="query")(x)
        key = nn.Dense(keys, dtype=self.dtype, name="key")(x)
        value = nn.Dense(channels, dtype=self.dtype, name="value")(x)
        gamma = self.param("gamma", nn.initializers.zeros_init(), ())
        energy = jnp.einsum("byxd,bijd->byxij", query, key, preferred_element_type=jnp.float32)
        weight = jax.nn.softmax(energy, (-2, -1)).astype(value.dtype)
        attended = jnp.einsum("byxij,bijc->byxc", weight, value)
        return gamma.astype(attended.dtype) * attended + x.astype(attended.dtype)


class Context(nn.Module):
    """The context module of the given name, with one call for all: [B, H, W, C] -> [B, H, W, C]."""

    kind: str
    loops: int = 2
    implementation: str | None = None
    align_corners: bool = False
    negative_slope: float = 0.0
    remat: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """x: [B, H, W, C] -> [B, H, W, C]."""
        match self.kind:
            case "none":
                return x
            case "rcca":
                return RCCA(
                    self.loops,
                    implementation=self.implementation,
                    dtype=self.dtype,
                    remat=self.remat,
                    name="rcca",
                )(x)
            case "psp":
                return PyramidPooling(self.align_corners, self.negative_slope, dtype=self.dtype, name="psp")(
                    x, train
                )
            case "aspp":
                return AtrousPyramid(self.negative_slope, dtype=self.dtype, name="aspp")(x, train)
            case "nonlocal":
                return NonLocal(dtype=self.dtype, name="nonlocal")(x)
        raise ValueError(f"context={self.kind!r} does not exist; choose one of {CONTEXTS}")


def adaptive_average_pool(x: jax.Array, side: int) -> jax.Array:
    """[B, H, W, C] -> [B, side, side, C]; bin i begins at floor(i H / side), ends at ceil((i+1) H / side)."""

    def bins(length: int) -> np.ndarray:
        i = np.arange(side)[:, None]
        at = np.arange(length)[None]
        inside = (at >= i * length // side) & (at < -(-(i + 1) * length // side))
        return (inside / inside.sum(1, keepdims=True)).astype(np.float32)

    pooled = jnp.einsum(
        "iy,jx,byxc->bijc", bins(x.shape[1]), bins(x.shape[2]), x, precision=jax.lax.Precision.HIGHEST
    )
    return pooled.astype(x.dtype)
