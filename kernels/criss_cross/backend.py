"""What a backend of the op is, to those that write one and to those that call one."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

Arrays = tuple[jax.Array, ...]  # query, key and value, or one array that holds the channels of all three
DTYPES = ("float32", "bfloat16", "float16")  # that every backend takes unless it says otherwise


class Backend(NamedTuple):
    """One way to compute the op: a member of `IMPLEMENTATIONS`.

    Attributes:
      attend: (arrays, key_channels) -> (out, log-sum-exp). `arrays` are query, key [B, H, W, D] and value
        [B, H, W, C], or one array [B, H, W, D + D + C] (`split_packed` splits it); key_channels is D. out is
        [B, H, W, C] in the arrays' dtype, log-sum-exp [B, H, W] in float32, or float64 where the arrays are.
        The arrays have been checked.
      unavailable: () -> None where the device at hand can run it, else what it needs, as the end of a
        message that begins with its name: "needs an NVIDIA GPU, and this is CPU".
      automatic: whether `implementation=None` may choose it.
      dtypes: names of the dtypes that it takes.
    """

    attend: Callable[[Arrays, int], tuple[jax.Array, jax.Array]]
    unavailable: Callable[[], str | None] = lambda: None
    automatic: bool = True
    dtypes: tuple[str, ...] = DTYPES


def split_packed(arrays: Arrays, key_channels: int) -> Arrays:
    """Query, key and value, sliced out of the one array where they are packed."""
    if len(arrays) == 3:
        return arrays
    return tuple(jnp.split(arrays[0], [key_channels, 2 * key_channels], -1))


def absent_backend(reason: str) -> Backend:
    """A backend that this installation lacks, with the reason that `unavailable` tells."""

    def attend(arrays: Arrays, key_channels: int) -> tuple[jax.Array, jax.Array]:
        raise NotImplementedError(reason)

    return Backend(attend, lambda: reason, automatic=False)
