"""The public op: checks its arguments, picks a backend, calls it."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from kernels.criss_cross import device, reference

_DTYPES = (jnp.float32, jnp.bfloat16, jnp.float16)


class Backend(NamedTuple):
    """One way to compute the op.

    Attributes:
      attend: (arrays, D) -> (out, log-sum-exp); arrays are query, key and value, or one packed array.
      unavailable: None where the device at hand can run it, else a sentence that says what it needs.
      automatic: whether `implementation=None` may choose it.
    """

    attend: Callable[[tuple[jax.Array, ...], int], tuple[jax.Array, jax.Array]]
    unavailable: Callable[[], str | None]
    automatic: bool = True


def _triton_unavailable() -> str | None:
    instead = device.no_modern_nvidia_gpu()
    return instead and f"needs an NVIDIA GPU of compute capability 8.0 or newer, and this is {instead}"


# Best first. A backend is one file; adding one is adding its lines here.
IMPLEMENTATIONS: dict[str, Backend] = {}
try:
    from kernels.criss_cross import pallas_triton
except ImportError:  # JAX has announced that it will drop Pallas's Triton backend
    pass
else:
    IMPLEMENTATIONS["triton"] = Backend(pallas_triton.attend, _triton_unavailable)
    IMPLEMENTATIONS["triton_interpret"] = Backend(
        functools.partial(pallas_triton.attend, interpret=True), lambda: None, automatic=False
    )
IMPLEMENTATIONS["xla"] = Backend(reference.attend, lambda: None)


def criss_cross_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    *,
    implementation: str | None = None,
    return_residuals: bool = False,
) -> jax.Array | tuple[jax.Array, jax.Array]:
    """Every pixel attends to its own row and column: equations (1) and (2) of the CCNet paper.

    A pixel (y, x) has H + W - 1 keys, itself counted once, under one softmax without scaling:

        energy_col[i] = query[y, x] . key[i, x]   (i != y)
        energy_row[j] = query[y, x] . key[y, j]
        out[y, x] = sum_i a_col[i] value[i, x] + sum_j a_row[j] value[y, j]

    Args:
      query: [B, H, W, D], float32, bfloat16 or float16.
      key: [B, H, W, D], of query's dtype.
      value: [B, H, W, C], of query's dtype.
      implementation: None for the best one on this device, or a name:
        "triton", fused GPU kernels that keep no attention map (NVIDIA, compute capability 8.0 or newer);
        "triton_interpret", the same kernels in Pallas's interpreter, on any device, for tests;
        "xla", the reference in einsums, on any device.
        The device is that of the mesh in scope (`jax.set_mesh`), else JAX's default device: to run on
        the CPU of a machine with a GPU, say so by `jax.default_device` or name "xla". The kernels have
        a gradient, and no derivative of that (no jvp, no hessian), which "xla" has.
      return_residuals: also return the log-sum-exp of the energies.

    Returns:
      out, [B, H, W, C] in value's dtype; products are summed in float32 whatever the dtype. With
      return_residuals (out, lse), lse [B, H, W] in float32; both can be differentiated.

    Raises:
      ValueError: a wrong rank or shape, or an implementation that does not exist or cannot run here.
      TypeError: a dtype that is not one of the three, or dtypes that differ.
    """
    _check({"query": query, "key": key, "value": value})
    if key.shape != query.shape:
        raise ValueError(f"key has shape {key.shape} but query has {query.shape}; they must be equal")
    if value.shape[:3] != query.shape[:3]:
        raise ValueError(f"value has shape {value.shape}; its [B, H, W] must be query's {query.shape[:3]}")
    out, lse = _backend(implementation).attend((query, key, value), query.shape[-1])
    return (out, lse) if return_residuals else out


def packed_criss_cross_attention(
    packed: jax.Array, keys: int, *, implementation: str | None = None
) -> jax.Array:
    """`criss_cross_attention` of three parts of one array, which the kernels read where it lies.

    One matrix product then makes query, key and value, and one takes their gradients back; slicing
    them apart first would copy them all.

    Args:
      packed: [B, H, W, D + D + C]: the channels of query, then of key, then of value.
      keys: D.
      implementation: see `criss_cross_attention`.

    Returns:
      [B, H, W, C] in packed's dtype.

    Raises:
      ValueError, TypeError: see `criss_cross_attention`; keys that leave no channels for value.
    """
    _check({"packed": packed})
    if not 0 < 2 * keys < packed.shape[-1]:
        raise ValueError(
            f"keys={keys} must be at least 1 and leave channels for value: packed has {packed.shape[-1]}, "
            f"query and key take {2 * keys}"
        )
    return _backend(implementation).attend((packed,), keys)[0]


def _backend(name: str | None) -> Backend:
    if name is None:
        return next(x for x in IMPLEMENTATIONS.values() if x.automatic and x.unavailable() is None)
    runnable = [n for n, x in IMPLEMENTATIONS.items() if x.unavailable() is None]
    if name not in IMPLEMENTATIONS:
        raise ValueError(
            f"implementation={name!r} does not exist in this version of JAX or at all; "
            f"this device can run {runnable}, None chooses"
        )
    reason = IMPLEMENTATIONS[name].unavailable()
    if reason:
        raise ValueError(
            f"implementation={name!r} {reason}; this device can run {runnable}, and None chooses"
        )
    return IMPLEMENTATIONS[name]


def _check(arrays: dict[str, jax.Array]) -> None:
    first, dtype = next((name, x.dtype) for name, x in arrays.items())
    for name, array in arrays.items():
        if array.ndim != 4:
            raise ValueError(f"{name} must be [B, H, W, channels], not of shape {array.shape}")
        if array.dtype not in _DTYPES:
            raise TypeError(f"{name} must be float32, bfloat16 or float16, not {array.dtype}")
        if array.dtype != dtype:
            raise TypeError(f"{name} is {array.dtype} but {first} is {dtype}; cast one of them")
        if 0 in array.shape:
            raise ValueError(f"{name} is empty: shape {array.shape}")
