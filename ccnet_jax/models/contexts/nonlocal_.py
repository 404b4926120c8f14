"""The non-local block: every pixel attends to all pixels."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ccnet_jax.models.contexts.settings import Context, ContextSettings
from ccnet_jax.models.layers import Dense


class NonLocal(nn.Module):
    """gamma * attention over all H x W pixels + x: the dense counterpart of `CrissCrossAttention`.

    D = C / 8 channels of query and key, C of the value, no projection after, so that only the attention
    differs from RCCA's.
    """

    reduction: int = 8
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        """x: [B, H, W, C] -> [B, H, W, C]."""
        channels = x.shape[-1]
        reduced = max(channels // self.reduction, 1)
        query = Dense(reduced, dtype=self.dtype, name="query")(x)
        key = Dense(reduced, dtype=self.dtype, name="key")(x)
        value = Dense(channels, dtype=self.dtype, name="value")(x)
        gamma = self.param("gamma", nn.initializers.zeros_init(), ())
        wide = jnp.promote_types(query.dtype, jnp.float32)
        energy = jnp.einsum("byxd,bijd->byxij", query, key, preferred_element_type=wide)
        weight = jax.nn.softmax(energy, (-2, -1)).astype(value.dtype)
        attended = jnp.einsum("byxij,bijc->byxc", weight, value)
        # every number has its gamma in float32: the gradient is then a sum in float32
        gammas = jnp.broadcast_to(gamma, attended.shape).astype(attended.dtype)
        return gammas * attended + x.astype(attended.dtype)


def build(settings: ContextSettings, name: str) -> Context:
    """The member of `CONTEXTS`."""
    module = NonLocal(dtype=settings.dtype, name=name)
    return lambda x, train: module(x)
