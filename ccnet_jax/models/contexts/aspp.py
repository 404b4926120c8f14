"""Atrous spatial pyramid pooling, DeepLabv3's context module."""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ccnet_jax.models.contexts.settings import Context, ContextSettings
from ccnet_jax.models.layers import ConvNorm


class AtrousPyramid(nn.Module):
    """A 1x1, 3x3s dilated by 12, 24, 36 (for stride 8) and the image's average, joined and fused by a 1x1."""

    negative_slope: float = 0.0
    dilations: tuple[int, ...] = (12, 24, 36)
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool) -> Float[Array, "B H W C"]:
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
        # every pixel has it in float32: the gradient is then a sum in float32
        wide = image.astype(jnp.promote_types(image.dtype, jnp.float32))
        parts.append(jnp.broadcast_to(wide, parts[0].shape).astype(image.dtype))
        return branch(1, 1, "fuse")(jnp.concatenate(parts, -1), train)


def build(settings: ContextSettings, name: str) -> Context:
    """The member of `CONTEXTS`."""
    return AtrousPyramid(settings.negative_slope, dtype=settings.dtype, name=name)
