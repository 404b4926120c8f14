"""The problems that `bench` and `tune` time: their sizes and their random inputs."""

import math
from typing import NamedTuple

import jax
import numpy as np

from .measure import Program

DTYPES = ("bfloat16", "float32")
DIRECTIONS = ("forward", "forward+backward")
SETS = 4  # of inputs, at least: a call must not find in the cache what the last one left there


class Size(NamedTuple):
    """The size of one problem: query and key [B, H, W, D], value [B, H, W, C]."""

    batch: int
    height: int
    width: int
    key_channels: int = 64
    value_channels: int = 512

    @property
    def pixels(self) -> int:
        """Of all images together."""
        return self.batch * self.height * self.width

    @property
    def name(self) -> str:
        """BxHxW."""
        return f"{self.batch}x{self.height}x{self.width}"


class Prepared(NamedTuple):
    """A program that has run once: its memory in bytes, and its results for the first set, in float32."""

    program: Program
    memory: int | None
    results: tuple[np.ndarray, ...]


def input_sets(size: Size, dtype: str, rotation_bytes: int) -> list[tuple[jax.Array, ...]]:
    """Several (query, key, value, d_out); normal, with energies of a standard deviation of 1.

    Args:
      rotation_bytes: what the sets take together, at least; more than the device's L2 cache.
    """

    @jax.jit
    def draw(seed: int | jax.Array) -> tuple[jax.Array, ...]:
        channels = (size.key_channels, size.key_channels, size.value_channels, size.value_channels)
        seeds = jax.random.split(jax.random.key(seed), len(channels))
        shape = size[:3]
        query, *rest = (
            jax.random.normal(s, (*shape, c), dtype) for s, c in zip(seeds, channels, strict=True)
        )
        return query * size.key_channels**-0.5, *rest

    return [draw(seed) for seed in range(_set_count(sum(x.nbytes for x in draw(0)), rotation_bytes))]


def _set_count(set_bytes: int, rotation_bytes: int) -> int:
    """How many sets of inputs, such that they take at most a quarter of the device's memory."""
    memory = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit", math.inf)
    return int(max(1, min(max(SETS, math.ceil(rotation_bytes / set_bytes)), memory / 4 // set_bytes)))
