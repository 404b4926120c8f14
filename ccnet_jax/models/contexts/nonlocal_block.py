"""The non-local block of Wang et al. (Non-local Neural Networks, CVPR 2018). Paper: the NL of Table 7."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ccnet_jax.models.batch_norm import BatchNorm
from ccnet_jax.models.contexts.settings import Context, ContextSettings
from ccnet_jax.models.layers import Dense


class NonLocalBlock(nn.Module):
    """norm(project(attention over all H x W pixels)) + x, the embedded Gaussian form.

    C / 2 channels of query, key and value. The projection back to C ends in a norm whose scale begins at 0:
    the block begins as the identity, and fits into a pretrained network.
    """

    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool) -> Float[Array, "B H W C"]:
        """x: [B, H, W, C] -> [B, H, W, C]."""
        channels = x.shape[-1]
        reduced = max(channels // 2, 1)
        query, key, value = (
            Dense(reduced, dtype=self.dtype, name=name)(x) for name in ("query", "key", "value")
        )
        wide = jnp.promote_types(query.dtype, jnp.float32)
        energy = jnp.einsum("byxd,bijd->byxij", query, key, preferred_element_type=wide)
        weight = jax.nn.softmax(energy, (-2, -1)).astype(value.dtype)
        attended = jnp.einsum("byxij,bijc->byxc", weight, value)
        out = nn.Dense(channels, use_bias=False, dtype=self.dtype, name="project")(attended)
        zeros = nn.initializers.zeros_init()
        return BatchNorm(not train, dtype=self.dtype, scale_init=zeros, name="norm")(out) + x


def build(settings: ContextSettings, name: str) -> Context:
    """The member of `CONTEXTS`."""
    return NonLocalBlock(dtype=settings.dtype, name=name)
