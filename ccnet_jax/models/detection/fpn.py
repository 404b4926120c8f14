"""A feature pyramid: every level as wide, with the context of the coarser ones. Paper: FPN, section 3."""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ccnet_jax.models.layers import conv

# Nothing but a sum follows, so that no activation halves the variance.
_START = nn.initializers.variance_scaling(1.0, "fan_in", "uniform")

Pyramid = tuple[Float[Array, "B _ _ C"], ...]


class FPN(nn.Module):
    """From the four stages of a backbone to five levels, P2 to P6, of strides 4 to 64.

    Attributes:
      channels: of every level.
      dtype: of the computation; parameters stay float32.
    """

    channels: int = 256
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, stages: Sequence[Float[Array, "B _ _ _"]]) -> Pyramid:
        """Stages of strides 4, 8, 16, 32, whose sides halve exactly, to levels [B, h, w, channels].

        P6 is every second place of P5.
        """
        levels = []
        above = None
        for level, stage in reversed(list(enumerate(stages, 2))):
            x = conv(self.channels, 1, bias=True, init=_START, dtype=self.dtype, name=f"lateral{level}")(
                stage
            )
            if above is not None:
                x += jnp.repeat(jnp.repeat(above, 2, 1), 2, 2)  # the nearest place
            above = x
            smooth = conv(self.channels, 3, bias=True, init=_START, dtype=self.dtype, name=f"smooth{level}")
            levels.append(smooth(x))
        levels.reverse()
        return (*levels, levels[-1][:, ::2, ::2])
