"""A mean as a sum and what it is divided by, so that those of a batch's parts make that of the batch."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Num


class Mean(NamedTuple):
    """A mean over pixels, anchors or regions.

    Attributes:
      total: the sum of what is averaged, weighted where there are weights.
      divisor: the number of what is averaged, or the sum of the weights. It has no gradient.
    """

    total: Float[Array, ""]
    divisor: Num[Array, ""]

    @property
    def value(self) -> Float[Array, ""]:
        """The mean; see `over`."""
        return self.over(self.divisor)

    def over(self, divisor: Num[Array, ""]) -> Float[Array, ""]:
        """The sum over a divisor, which may be that of a larger batch; 0, without gradient, where it is 0."""
        anything = divisor > 0
        return jnp.where(anything, self.total / jnp.where(anything, divisor, 1), 0)
