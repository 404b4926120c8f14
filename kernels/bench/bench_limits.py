"""What the device could do at best: the floor that `bench` compares every time with."""

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .bench_cases import Size
from .measure import Program, interleaved_seconds, jax_clock

# How a matrix product can be asked for; the floor takes the fastest. The Triton kernels make a float32
# product of six in bfloat16, see `factor`.
PRECISIONS = {
    "bfloat16": (jax.lax.Precision.DEFAULT,),
    "float32": (
        jax.lax.Precision.HIGHEST,
        jax.lax.DotAlgorithmPreset.TF32_TF32_F32_X3,
        jax.lax.DotAlgorithmPreset.BF16_BF16_F32_X6,
    ),
}


class Work(NamedTuple):
    """The least that any implementation must do."""

    bytes: int
    operations: int


def least_work(size: Size, dtype: str, direction: str) -> Work:
    """Every input read and every result written once; products of the H + W - 1 keys of each pixel.

    The backward pass reads query, key, value, out and d_out, writes three gradients, and computes the
    weights again.
    """
    d, c = size.key_channels, size.value_channels
    products = 2 * size.pixels * (size.height + size.width - 1)
    channels, operations = 2 * d + 2 * c, products * (d + c)
    if direction != "forward":
        channels += (2 * d + 3 * c) + (2 * d + c)
        operations += products * (3 * d + 2 * c)
    return Work(size.pixels * channels * jnp.dtype(dtype).itemsize, operations)


class Limits(NamedTuple):
    """What this device was measured to do.

    Attributes:
      copy: bytes a second, read or written.
      matrix: operations a second, by dtype and precision; a multiplication and an addition are two.
      shortest: seconds a call of a program that does nothing: no shorter time can be measured.
    """

    copy: float
    matrix: dict[str, dict[str, float]]
    shortest: float

    def floor(self, work: Work, dtype: str) -> float:
        """Seconds that no implementation can beat."""
        return max(work.bytes / self.copy, work.operations / max(self.matrix[dtype].values()))


def measured_limits(copied_numbers: int, matrix: int, rounds: int, round_seconds: float) -> Limits:
    """What the default device does, timed in so many rounds of so many seconds.

    Args:
      copied_numbers: float32 numbers in the array whose copy is timed.
      matrix: side of the square matrices whose product is timed.
    """

    def program(function: Callable[..., jax.Array], *inputs: jax.Array) -> Program:
        return Program(jax.jit(function), [inputs], jax_clock)

    def product(precision: Any) -> Callable[[jax.Array, jax.Array], jax.Array]:
        return lambda a, b: jax.lax.dot(a, b, precision=precision)

    programs = {
        "nothing": program(lambda x: x + 1, jnp.zeros(())),
        "copy": program(lambda x: x + 1, jnp.zeros(copied_numbers)),
    }
    for dtype, precisions in PRECISIONS.items():
        for n, precision in enumerate(precisions):
            square = jax.random.normal(jax.random.key(n), (matrix, matrix), dtype)
            programs[f"{dtype} {precision.name}"] = program(product(precision), square, square)
    seconds, failures = interleaved_seconds(programs, rounds, round_seconds)
    for name, failure in failures.items():
        print(f"The rate of {name} is not known here: {failure}", file=sys.stderr)
    median = {name: float(np.median(x)) for name, x in seconds.items()}
    rates = {
        dtype: {
            p.name: 2 * matrix**3 / median[f"{dtype} {p.name}"]
            for p in precisions
            if f"{dtype} {p.name}" in median
        }
        for dtype, precisions in PRECISIONS.items()
    }
    return Limits(2 * 4 * copied_numbers / median["copy"], rates, median["nothing"])
