"""Criss-cross attention as a network layer, and its recurrent form, RCCA.

Needs only `kernels/` and Flax: copy both into your own project and

    features = RCCA(loops=2)(features)        # [B, H, W, C] -> [B, H, W, C]
"""

from typing import Any

import flax.linen as nn
import jax

from kernels.criss_cross import criss_cross_attention


class CrissCrossAttention(nn.Module):
    """gamma * attention(q(x), k(x), v(x)) + x, with gamma from 0: the paper's Figure 3, equation (2).

    Query and key have C / reduction channels, value has C, all by 1x1 convolutions with bias.

    Attributes:
      reduction: C / D, 8 in the paper.
      implementation: backend of the op; None chooses by device (`kernels.criss_cross_attention`).
      dtype: of the computation, the input's where None; parameters stay float32.
    """

    reduction: int = 8
    implementation: str | None = None
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x: [B, H, W, C] -> [B, H, W, C]."""
        channels, dtype = x.shape[-1], self.dtype or x.dtype
        keys = max(channels // self.reduction, 1)
        query = nn.Dense(keys, dtype=dtype, name="query")(x)
        key = nn.Dense(keys, dtype=dtype, name="key")(x)
        value = nn.Dense(channels, dtype=dtype, name="value")(x)
        gamma = self.param("gamma", nn.initializers.zeros_init(), ())
        attended = criss_cross_attention(query, key, value, implementation=self.implementation)
        return gamma.astype(attended.dtype) * attended + x.astype(attended.dtype)


class RCCA(nn.Module):
    """Recurrent criss-cross attention: one `CrissCrossAttention`, one set of parameters, `loops` times.

    With loops=2 every pixel can gather from every other (section 3.3 of the paper); with 1, from its
    row and column only.

    Attributes:
      loops: number of applications, 1 to 3 in the paper.
      reduction, implementation, dtype: see `CrissCrossAttention`.
    """

    loops: int = 2
    reduction: int = 8
    implementation: str | None = None
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x: [B, H, W, C] -> [B, H, W, C]."""
        dtype = self.dtype or x.dtype
        x = x.astype(dtype)  # what goes around the loop keeps one dtype
        attention = CrissCrossAttention(self.reduction, self.implementation, dtype, name="attention")

        def loop(module: nn.Module, carry: jax.Array, _):
            return module(carry), None

        recurrent = nn.scan(
            loop, variable_broadcast="params", split_rngs={"params": False}, length=self.loops
        )
        return recurrent(attention, x, None)[0]
