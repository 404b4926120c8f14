"""Products of matrices inside a kernel, with float32 made of what a GPU's matrix units take."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Factor(NamedTuple):
    """A matrix to multiply, as the sum of matrices that the GPU's matrix units take, the largest first.

    A float32 matrix is the sum of three in bfloat16, which together hold its 24 bits.
    """

    parts: tuple[jax.Array, ...]

    @classmethod
    def of(cls, x: jax.Array) -> "Factor":
        """The matrix x, float32 in three parts."""
        if x.dtype != jnp.float32:
            return cls((x,))
        high = x.astype(jnp.bfloat16)
        rest = x - high.astype(jnp.float32)
        middle = rest.astype(jnp.bfloat16)
        return cls((high, middle, (rest - middle.astype(jnp.float32)).astype(jnp.bfloat16)))

    @property
    def T(self) -> "Factor":
        """Transposed."""
        return Factor(tuple(x.T for x in self.parts))

    def times(self, other: "Factor", onto: Any = 0.0) -> jax.Array:
        """onto + self @ other in float32. What is left out of a float32 product is about 2**-24 of it."""
        pairs = [(a, b) for a in range(len(self.parts)) for b in range(len(other.parts)) if a + b < 3]
        for a, b in sorted(pairs, key=sum, reverse=True):  # the smallest first
            onto += _dot(self.parts[a], other.parts[b])
        return onto


def _dot(a: jax.Array, b: jax.Array) -> jax.Array:
    exact = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    return jax.lax.dot(a, b, precision=exact, preferred_element_type=jnp.float32)
