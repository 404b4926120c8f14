"""Criss-cross attention as a network layer, and its recurrent form, RCCA.

Needs only `kernels/`, Flax and jaxtyping: copy this file and `kernels/` into your own project, and

    features = RCCA(loops=2)(features)        # [B, H, W, C] -> [B, H, W, C]
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

try:  # installed, `kernels` lies inside the package
    from ccnet_jax.kernels.criss_cross import packed_criss_cross_attention
except ModuleNotFoundError:  # in a clone, and in your own project
    from kernels.criss_cross import packed_criss_cross_attention


class _Projection(nn.Module):
    """Parameters of a 1x1 convolution with bias, for its caller to apply: kernel [C, features], bias."""

    features: int

    @nn.compact
    def __call__(self, channels: int) -> tuple[Float[Array, "C F"], Float[Array, " F"]]:
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (channels, self.features))
        return kernel, self.param("bias", nn.initializers.zeros_init(), (self.features,))


class CrissCrossAttention(nn.Module):
    """gamma * attention(q(x), k(x), v(x)) + x, with gamma from 0: the paper's Figure 3, equation (2).

    Query and key have C / reduction channels, value has C, all by 1x1 convolutions with bias. The
    three are one matrix product; attention is linear in the value, so gamma goes into its weights and
    no feature map is ever scaled.

    Attributes:
      reduction: C / D, 8 in the paper.
      implementation: backend of the op; None chooses by device (`kernels.criss_cross_attention`).
      dtype: of the computation, the input's where None; parameters stay float32.
    """

    reduction: int = 8
    implementation: str | None = None
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        """x: [B, H, W, C] -> [B, H, W, C]."""
        x = x.astype(self.dtype or x.dtype)
        channels = x.shape[-1]
        key_channels = max(channels // self.reduction, 1)
        query = _Projection(key_channels, name="query")(channels)
        key = _Projection(key_channels, name="key")(channels)
        value = _Projection(channels, name="value")(channels)
        gamma = self.param("gamma", nn.initializers.zeros_init(), ())
        scaled = jax.tree.map(lambda parameter: gamma * parameter, value)
        kernel, bias = (jnp.concatenate(parts, -1) for parts in zip(query, key, scaled, strict=True))
        packed = x @ kernel.astype(x.dtype)
        # rounded when every pixel has it: the gradient of the bias is then a sum in float32
        packed += jnp.broadcast_to(bias, packed.shape).astype(x.dtype)
        return x + packed_criss_cross_attention(packed, key_channels, implementation=self.implementation)


class RCCA(nn.Module):
    """Recurrent criss-cross attention: one `CrissCrossAttention`, one set of parameters, `loops` times.

    With loops=2 every pixel can gather from every other (section 3.3 of the paper); with loops=1, from
    its row and column only.

    The loops are one `nn.scan` that is unrolled completely, with an optimization barrier on its carry.
    Device memory decided this; docs/kernels.md has what `experiments/attention_memory.py` measured. Two
    calls, one after the other, take the same memory. Without the barrier XLA fuses the sums of two loops, and
    the result of one loop stays in memory during the next forward pass. A scan that is not unrolled stacks
    what every loop keeps for the backward pass, and copies each part out again.

    Attributes:
      loops: number of applications, 1 to 3 in the paper.
      reduction, implementation, dtype: see `CrissCrossAttention`.
      remat: compute the projections again in the backward pass instead of keeping them.

    Raises:
      ValueError: loops is below 1.
    """

    loops: int = 2
    reduction: int = 8
    implementation: str | None = None
    dtype: DTypeLike | None = None
    remat: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        """x: [B, H, W, C] -> [B, H, W, C]."""
        if self.loops < 1:
            raise ValueError(f"loops={self.loops} must be at least 1")
        layer = CrissCrossAttention
        if self.remat:
            kept = jax.checkpoint_policies.save_only_these_names("criss_cross")  # what the op names so
            layer = nn.remat(layer, policy=kept)

        def loop(attention: nn.Module, x: jax.Array, _: None) -> tuple[jax.Array, None]:
            return attention(jax.lax.optimization_barrier(x)), None

        loops = nn.scan(
            loop,
            variable_broadcast="params",
            variable_axes={"intermediates": 0},  # `capture_intermediates` sees every loop
            split_rngs={"params": False},
            length=self.loops,
            unroll=self.loops,
        )
        attention = layer(self.reduction, self.implementation, self.dtype, name="attention")
        x, _ = loops(attention, x.astype(self.dtype or x.dtype), None)  # a carry keeps its dtype
        return x
