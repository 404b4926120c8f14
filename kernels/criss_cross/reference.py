"""Criss-cross attention in plain einsums: what the op means, on any device."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .backend import DTYPES, Backend, split_packed


def attend(
    arrays: tuple[Float[Array, "B H W _"], ...], key_channels: int
) -> tuple[Float[Array, "B H W _"], Float[Array, "B H W"]]:
    """See `api`. query, key [B, H, W, D], value [B, H, W, C], or one array of all their channels.

    The softmax spans the column's H - 1 keys and the row's W keys without joining them in one
    tensor: both halves are shifted by their common maximum and divided by their common sum.
    float32 products are exact (no TF32); lower precisions are summed in float32, and float64 in float64.

    Returns:
      out [B, H, W, C] and the log-sum-exp of the energies, [B, H, W] in float32, or float64 for float64.
    """
    query, key, value = split_packed(arrays, key_channels)
    wide = jnp.promote_types(query.dtype, jnp.float32)

    def product(equation: str, a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.einsum(equation, a, b, precision=jax.lax.Precision.HIGHEST, preferred_element_type=wide)

    energy_col = product("bywd,biwd->bywi", query, key)  # [B, H, W, H]
    energy_row = product("byxd,byjd->byxj", query, key)  # [B, H, W, W]

    # The row counts the pixel itself; the column leaves it out. The row's maximum is finite, so the
    # masked -inf becomes an exact 0 with a zero gradient.
    itself = jnp.expand_dims(jnp.eye(query.shape[1], dtype=bool), (0, 2))  # [1, H, 1, H]
    energy_col = jnp.where(itself, -jnp.inf, energy_col)

    maximum = jnp.maximum(energy_col.max(-1, keepdims=True), energy_row.max(-1, keepdims=True))
    maximum = jax.lax.stop_gradient(maximum)
    weight_col = jnp.exp(energy_col - maximum)
    weight_row = jnp.exp(energy_row - maximum)
    total = weight_col.sum(-1, keepdims=True) + weight_row.sum(-1, keepdims=True)
    lse = jnp.squeeze(maximum + jnp.log(total), -1)
    weight_col = (weight_col / total).astype(value.dtype)
    weight_row = (weight_row / total).astype(value.dtype)

    out = product("bywi,biwc->bywc", weight_col, value) + product("byxj,byjc->byxc", weight_row, value)
    return out.astype(value.dtype), lse


BACKEND = Backend(attend, dtypes=(*DTYPES, "float64"))
