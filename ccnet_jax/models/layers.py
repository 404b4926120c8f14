"""What every part of the network is made of: convolution + norm + activation."""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ccnet_jax.common.kernels import device
from ccnet_jax.models.batch_norm import BatchNorm

# Kaiming-normal over fan-out, as PyTorch's ResNets start.
conv_init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


Layer = TypeVar("Layer", bound=Callable[..., Any])

# {what is computed again in the backward pass: the values that a part keeps for it, beside its input}.
# "norms" computes norms and activations again from the convolutions' results, and no convolution.
REMAT: dict[str, Callable[..., bool] | None] = {
    "none": None,
    "norms": jax.checkpoint_policies.save_only_these_names("convolution"),
    "blocks": jax.checkpoint_policies.nothing_saveable,
}


def with_remat(part: Layer, remat: str) -> Layer:
    """A module's class, or a function (module, x, train), whose backward pass computes values again.

    remat: a key of `REMAT`.
    """
    policy = REMAT[remat]
    return part if policy is None else nn.remat(part, policy=policy, static_argnums=(2,))


def scale_channels(channels: int, width: float) -> int:
    """`channels` times the width multiplier, at least 8 and a multiple of 8 where width is not 1."""
    return channels if width == 1 else max(8, round(channels * width / 8) * 8)


def add_bias(x: Float[Array, "*pixels C"], bias: Float[Array, " C"]) -> Float[Array, "*pixels C"]:
    """x + bias, in x's dtype.

    The bias goes to every pixel before it is rounded to that dtype: so its gradient is a sum over pixels in
    float32. That of a bias which is rounded first is a sum in bfloat16, 3 % off over 338 pixels.
    """
    return x + jnp.broadcast_to(bias, x.shape).astype(x.dtype)


class Dense(nn.Module):
    """`nn.Dense`, with `add_bias`."""

    features: int
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "*pixels C"]) -> Float[Array, "*pixels features"]:
        """x: [..., C] -> [..., features]."""
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))
        x, kernel = nn.dtypes.promote_dtype(x, kernel, dtype=self.dtype)
        return add_bias(x @ kernel, bias)


class BiasedConv(nn.Conv):
    """`nn.Conv` without its own bias, and with `add_bias`."""

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w D"]:
        """x: [B, H, W, C] -> [B, h, w, features]."""
        out = super().__call__(x)
        return add_bias(out, self.param("bias", nn.initializers.zeros_init(), (self.features,)))


def conv(
    channels: int,
    size: int,
    *,
    stride: int = 1,
    dilation: int = 1,
    bias: bool = False,
    init: nn.initializers.Initializer = conv_init,
    dtype: DTypeLike | None = None,
    name: str,
) -> nn.Conv:
    """A size x size convolution with PyTorch's symmetric padding, dilation * (size // 2) on each side."""
    pad = dilation * (size // 2)
    return (BiasedConv if bias else nn.Conv)(
        channels,
        (size, size),
        strides=stride,
        kernel_dilation=dilation,
        padding=((pad, pad), (pad, pad)),
        use_bias=False,
        kernel_init=init,
        dtype=dtype,
        conv_general_dilated=_named_convolution,
        name=name,
    )


def _named_convolution(
    x: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: Any, **settings: Any
) -> jax.Array:
    """`jax.lax.conv_general_dilated`, whose result `REMAT` can keep."""
    dilations = settings["rhs_dilation"]
    if max(dilations) > 1 and max(strides) == 1 and device.kind()[0] == "gpu":
        result = convolution_by_phases(x, kernel, dilations, padding, **settings)
    else:
        result = jax.lax.conv_general_dilated(x, kernel, strides, padding, **settings)
    return checkpoint_name(result, "convolution")


def convolution_by_phases(
    x: Float[Array, "B H W C"],
    kernel: Float[Array, "h w C channels"],
    dilations: Sequence[int],
    padding: Sequence[tuple[int, int]],
    **settings: Any,
) -> Float[Array, "B H W channels"]:
    """A dilated convolution of stride 1 as one without dilation, of every d-th row and column alone.

    A pixel of a dilated convolution sees only pixels whose row differs from its own by a multiple of the
    dilation, and whose column does. These form a smaller image, a *phase*, whose convolution has no dilation.
    For GPUs: cuDNN 9.19 takes 5.8 ms on an H200 for 512 channels at 8x97x97 with dilation 4 in bfloat16,
    61 TFLOP/s, where the same layer's gradients take 0.4 ms each.

    Args:
      x: [B, H, W, C].
      kernel: [h, w, C, channels], of odd sides.
      dilations: of rows and columns.
      padding: dilation * (side // 2) zeros on each side: the result has x's height and width.
      settings: more of `jax.lax.conv_general_dilated`.
    """
    (batch, height, width, _), (down, right) = x.shape, dilations
    rows, columns = -(-height // down), -(-width // right)
    x = jnp.pad(x, ((0, 0), (0, rows * down - height), (0, columns * right - width), (0, 0)))
    phases = x.reshape(batch, rows, down, columns, right, -1).transpose(0, 2, 4, 1, 3, 5)
    phases = phases.reshape(batch * down * right, rows, columns, -1)
    sides = [(low // d, high // d) for (low, high), d in zip(padding, dilations, strict=True)]
    settings |= {"rhs_dilation": (1, 1)}
    out = jax.lax.conv_general_dilated(phases, kernel, (1, 1), sides, **settings)
    out = out.reshape(batch, down, right, rows, columns, -1).transpose(0, 3, 1, 4, 2, 5)
    return out.reshape(batch, rows * down, columns * right, -1)[:, :height, :width]


class JoinedConv(nn.Module):
    """A convolution of arrays that are joined along their channels: the sum of one convolution of each.

    The joined array would be kept for the backward pass beside its parts.

    Attributes:
      channels: of the result.
      size: of the kernel, a side, with padding as in `conv`.
      dtype: of the computation.
    """

    channels: int
    size: int
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, parts: tuple[Float[Array, "B H W _"], ...]) -> Float[Array, "B H W channels"]:
        """parts: [B, H, W, Ci] -> [B, H, W, channels]. The kernel is [size, size, sum of Ci, channels]."""
        ends = list(itertools.accumulate(part.shape[-1] for part in parts))
        kernel = self.param("kernel", conv_init, (self.size, self.size, ends[-1], self.channels))
        *inputs, kernel = nn.dtypes.promote_dtype(*parts, kernel, dtype=self.dtype)
        pad = self.size // 2
        results = [
            jax.lax.conv_general_dilated(
                part,
                kernel[:, :, end - part.shape[-1] : end],
                (1, 1),
                ((pad, pad), (pad, pad)),
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )
            for part, end in zip(inputs, ends, strict=True)
        ]
        return checkpoint_name(functools.reduce(jnp.add, results), "convolution")


@jax.custom_jvp
def relu_of_sum(x: Float[Array, "B H W C"], y: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
    """relu(x + y), of a block's result and its shortcut.

    The gradient looks at the result, which the next convolution keeps anyway. And the form matters to XLA on
    the CPU: it would compute a maximum again in everything that reads it, and with it the sums of all blocks
    before, since each is the sum of a maximum. It does not do so with a selection by two arrays. NaN stays
    NaN, as in a maximum.
    """
    total = x + y
    return jnp.where(total <= 0, 0, total)


@relu_of_sum.defjvp
def _relu_of_sum_jvp(
    primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    out = relu_of_sum(*primals)
    return out, jnp.where(out > 0, tangents[0] + tangents[1], 0)


class ConvNorm(nn.Module):
    """Convolution, batch norm, and leaky ReLU of the given slope (0 is ReLU, 1 is no activation)."""

    channels: int
    size: int = 3
    dilation: int = 1
    bias: bool = False
    negative_slope: float = 0.0
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W C"] | tuple[Float[Array, "B H W _"], ...], train: bool
    ) -> Float[Array, "B H W channels"]:
        """x: [B, H, W, C], or arrays to join along their channels -> [B, H, W, channels].

        Arrays are joined in a convolution without dilation and bias only.
        """
        if isinstance(x, tuple):
            out = JoinedConv(self.channels, self.size, self.dtype, name="conv")(x)
        else:
            out = conv(
                self.channels,
                self.size,
                dilation=self.dilation,
                bias=self.bias,
                dtype=self.dtype,
                name="conv",
            )(x)
        out = BatchNorm(not train, dtype=self.dtype, name="norm")(out)
        return nn.leaky_relu(out, self.negative_slope)
