"""The public op: checks its arguments, picks a backend, calls it."""

from typing import Literal, overload

import jax
from jaxtyping import Array, Float

from . import reference
from .backend import Backend, absent_backend

try:
    from . import pallas_triton
except ImportError:
    _triton = _triton_interpret = absent_backend(
        "needs Pallas's Triton backend, which this version of JAX lacks"
    )
else:
    _triton, _triton_interpret = pallas_triton.BACKEND, pallas_triton.INTERPRETED

# By name. `implementation=None` takes the first that the device can run, that takes the dtype and that is
# `automatic`. A backend is one file and its line here; code elsewhere may add its own:
# IMPLEMENTATIONS["mine"] = Backend(...).
IMPLEMENTATIONS: dict[str, Backend] = {
    "triton": _triton,
    "triton_interpret": _triton_interpret,
    "xla": reference.BACKEND,
}


@overload
def criss_cross_attention(
    query: Float[Array, "B H W D"],
    key: Float[Array, "B H W D"],
    value: Float[Array, "B H W C"],
    *,
    implementation: str | None = None,
    return_residuals: Literal[False] = False,
) -> Float[Array, "B H W C"]: ...


@overload
def criss_cross_attention(
    query: Float[Array, "B H W D"],
    key: Float[Array, "B H W D"],
    value: Float[Array, "B H W C"],
    *,
    implementation: str | None = None,
    return_residuals: Literal[True],
) -> tuple[Float[Array, "B H W C"], Float[Array, "B H W"]]: ...


def criss_cross_attention(
    query: Float[Array, "B H W D"],
    key: Float[Array, "B H W D"],
    value: Float[Array, "B H W C"],
    *,
    implementation: str | None = None,
    return_residuals: bool = False,
) -> Float[Array, "B H W C"] | tuple[Float[Array, "B H W C"], Float[Array, "B H W"]]:
    """Every pixel attends to its own row and column: equations (1) and (2) of the CCNet paper.

    A pixel (y, x) has H + W - 1 keys, itself counted once, under one softmax without scaling:

        energy_col[i] = query[y, x] . key[i, x]   (i != y)
        energy_row[j] = query[y, x] . key[y, j]
        out[y, x] = sum_i a_col[i] value[i, x] + sum_j a_row[j] value[y, j]

    Args:
      query: [B, H, W, D], float32, bfloat16 or float16; for checks also float64, under `jax_enable_x64`,
        which "xla" alone takes.
      key: [B, H, W, D], of query's dtype.
      value: [B, H, W, C], of query's dtype.
      implementation: None for the best one on this device, or a name:
        "triton", fused GPU kernels that keep no attention map (NVIDIA, compute capability 8.0 or newer);
        "triton_interpret", the same kernels in Pallas's interpreter, on any device, for tests;
        "xla", the reference in einsums, on any device;
        or one that was added to `IMPLEMENTATIONS`.
        The device is that of the mesh in scope (`jax.set_mesh`), else JAX's default device: to run on
        the CPU of a machine with a GPU, say so by `jax.default_device` or name "xla". The kernels have
        a gradient, and no derivative of that (no jvp, no hessian), which "xla" has.
      return_residuals: also return the log-sum-exp of the energies.

    Returns:
      out, [B, H, W, C] in value's dtype; products of lower precision are summed in float32. With
      return_residuals (out, lse), lse [B, H, W] in float32 (float64 for float64); both can be differentiated.

    Raises:
      ValueError: a wrong rank or shape, or an implementation that does not exist or cannot run here.
      TypeError: a dtype that the implementation does not take, or dtypes that differ.
    """
    _check({"query": query, "key": key, "value": value})
    if key.shape != query.shape:
        raise ValueError(f"key has shape {key.shape} but query has {query.shape}; they must be equal")
    if value.shape[:3] != query.shape[:3]:
        raise ValueError(f"value has shape {value.shape}; its [B, H, W] must be query's {query.shape[:3]}")
    out, lse = _backend(implementation, query).attend((query, key, value), query.shape[-1])
    return (out, lse) if return_residuals else out


def packed_criss_cross_attention(
    packed: Float[Array, "B H W P"], key_channels: int, *, implementation: str | None = None
) -> Float[Array, "B H W C"]:
    """`criss_cross_attention` of three parts of one array, which the kernels read where it lies.

    One matrix product then makes query, key and value, and one takes their gradients back; slicing
    them apart first would copy them all.

    Args:
      packed: [B, H, W, D + D + C]: the channels of query, then of key, then of value.
      key_channels: D.
      implementation: see `criss_cross_attention`.

    Returns:
      [B, H, W, C] in packed's dtype.

    Raises:
      ValueError, TypeError: see `criss_cross_attention`; key_channels that leave no channels for value.
    """
    _check({"packed": packed})
    if not 0 < 2 * key_channels < packed.shape[-1]:
        raise ValueError(
            f"key_channels={key_channels} must be at least 1 and leave channels for value: "
            f"packed has {packed.shape[-1]}, query and key take {2 * key_channels}"
        )
    return _backend(implementation, packed).attend((packed,), key_channels)[0]


def _backend(name: str | None, array: jax.Array) -> Backend:
    """The implementation of that name, or the best one here, for the array's dtype."""
    dtype = array.dtype.name
    takers = [n for n, x in IMPLEMENTATIONS.items() if dtype in x.dtypes]
    if name is None:
        backends = (IMPLEMENTATIONS[n] for n in takers)
        return next(x for x in backends if x.automatic and x.unavailable() is None)
    runnable = [n for n, x in IMPLEMENTATIONS.items() if x.unavailable() is None]
    instead = f"this device can run {runnable}, and None chooses"
    if name not in IMPLEMENTATIONS:
        raise ValueError(f"implementation={name!r} does not exist; {instead}")
    reason = IMPLEMENTATIONS[name].unavailable()
    if reason:
        raise ValueError(f"implementation={name!r} {reason}; {instead}")
    if name not in takers:
        taken = " or ".join(IMPLEMENTATIONS[name].dtypes)
        raise TypeError(f"implementation={name!r} takes {taken}, not {dtype}, which {takers} take")
    return IMPLEMENTATIONS[name]


def _check(arrays: dict[str, jax.Array]) -> None:
    first, dtype = next((name, x.dtype) for name, x in arrays.items())
    for name, array in arrays.items():
        if array.ndim != 4:
            raise ValueError(f"{name} must be [B, H, W, channels], not of shape {array.shape}")
        if not any(array.dtype.name in backend.dtypes for backend in IMPLEMENTATIONS.values()):
            raise TypeError(f"{name} must be float32, bfloat16 or float16, not {array.dtype}")
        if array.dtype != dtype:
            raise TypeError(f"{name} is {array.dtype} but {first} is {dtype}; cast one of them")
        if 0 in array.shape:
            raise ValueError(f"{name} is empty: shape {array.shape}")
