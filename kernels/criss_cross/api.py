"""The public op: checks its arguments, picks a backend, calls it."""

import jax
import jax.numpy as jnp

from kernels.criss_cross import reference

# A backend is one file with a function of (query, key, value); adding one is adding a line here.
IMPLEMENTATIONS = {"xla": reference.criss_cross_attention}

_DTYPES = (jnp.float32, jnp.bfloat16, jnp.float16)


def criss_cross_attention(
    query: jax.Array, key: jax.Array, value: jax.Array, *, implementation: str | None = None
) -> jax.Array:
    """Every pixel attends to its own row and column: equations (1) and (2) of the CCNet paper.

    A pixel (y, x) has H + W - 1 keys, itself counted once, under one softmax without scaling:

        energy_col[i] = query[y, x] . key[i, x]   (i != y)
        energy_row[j] = query[y, x] . key[y, j]
        out[y, x] = sum_i a_col[i] value[i, x] + sum_j a_row[j] value[y, j]

    Args:
      query: [B, H, W, D], float32, bfloat16 or float16.
      key: [B, H, W, D], of query's dtype.
      value: [B, H, W, C], of query's dtype.
      implementation: a name in `IMPLEMENTATIONS`, or None for the best one on this device.

    Returns:
      [B, H, W, C] in value's dtype. Products are summed in float32 whatever the dtype.

    Raises:
      ValueError: a wrong rank or shape, or an implementation that does not exist.
      TypeError: a dtype that is not one of the three, or dtypes that differ.
    """
    _check(query, key, value)
    name = implementation or "xla"
    if name not in IMPLEMENTATIONS:
        raise ValueError(
            f"implementation={name!r} does not exist; choose one of {sorted(IMPLEMENTATIONS)} or None"
        )
    return IMPLEMENTATIONS[name](query, key, value)


def _check(query: jax.Array, key: jax.Array, value: jax.Array) -> None:
    arrays = {"query": query, "key": key, "value": value}
    for name, array in arrays.items():
        if array.ndim != 4:
            raise ValueError(f"{name} must be [B, H, W, channels], not of shape {array.shape}")
        if array.dtype not in _DTYPES:
            raise TypeError(f"{name} must be float32, bfloat16 or float16, not {array.dtype}")
        if array.dtype != query.dtype:
            raise TypeError(f"{name} is {array.dtype} but query is {query.dtype}; cast one of them")
        if 0 in array.shape:
            raise ValueError(f"{name} is empty: shape {array.shape}")
    if key.shape != query.shape:
        raise ValueError(f"key has shape {key.shape} but query has {query.shape}; they must be equal")
    if value.shape[:3] != query.shape[:3]:
        raise ValueError(f"value has shape {value.shape}; its [B, H, W] must be query's {query.shape[:3]}")
