"""ResNet, dilated at stride 8 or plain, with the deep (three 3x3) stem of CCNet's code bases or a 7x7 one."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ccnet_jax.models.backbones.settings import Backbone, BackboneSettings
from ccnet_jax.models.batch_norm import BatchNorm
from ccnet_jax.models.layers import conv, relu_of_sum, scale_channels, with_remat

# The first layers: the flavour's three 3x3 convolutions, or torchvision's one of 7x7.
STEMS = ("deep", "7x7")
# Blocks in each of the four stages. 10 is one basic block a stage, for small models.
BLOCKS = {
    10: (1, 1, 1, 1),
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
# Strides and dilations of the four stages, by `ResNet.dilated`.
_STRIDES = {True: (1, 2, 1, 1), False: (1, 2, 2, 2)}
_DILATIONS = {True: (1, 1, 2, 4), False: (1, 1, 1, 1)}


class BasicBlock(nn.Module):
    """Two 3x3 convolutions; stride and dilation on the first (depths 10, 18, 34)."""

    channels: int
    stride: int = 1
    dilation: int = 1
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool) -> Float[Array, "B h w D"]:
        """x: [B, H, W, C] -> [B, H / stride, W / stride, channels]."""
        out = conv(
            self.channels, 3, stride=self.stride, dilation=self.dilation, dtype=self.dtype, name="conv1"
        )(x)
        out = nn.relu(BatchNorm(not train, dtype=self.dtype, name="norm1")(out))
        out = conv(self.channels, 3, dtype=self.dtype, name="conv2")(out)
        out = BatchNorm(not train, dtype=self.dtype, name="norm2")(out)
        return relu_of_sum(out, _shortcut(x, out, self.stride, train, self.dtype))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 to 4 x channels; stride and dilation on the 3x3 (depths 50, 101, 152)."""

    channels: int
    stride: int = 1
    dilation: int = 1
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool) -> Float[Array, "B h w D"]:
        """x: [B, H, W, C] -> [B, H / stride, W / stride, 4 * channels]."""
        out = conv(self.channels, 1, dtype=self.dtype, name="conv1")(x)
        out = nn.relu(BatchNorm(not train, dtype=self.dtype, name="norm1")(out))
        out = conv(
            self.channels, 3, stride=self.stride, dilation=self.dilation, dtype=self.dtype, name="conv2"
        )(out)
        out = nn.relu(BatchNorm(not train, dtype=self.dtype, name="norm2")(out))
        out = conv(4 * self.channels, 1, dtype=self.dtype, name="conv3")(out)
        out = BatchNorm(not train, dtype=self.dtype, name="norm3")(out)
        return relu_of_sum(out, _shortcut(x, out, self.stride, train, self.dtype))


def _shortcut(x: jax.Array, out: jax.Array, stride: int, train: bool, dtype: DTypeLike | None) -> jax.Array:
    """x itself, or where channels or size change its 1x1 projection to `out`'s shape."""
    if x.shape == out.shape:
        return x
    x = conv(out.shape[-1], 1, stride=stride, dtype=dtype, name="downsample_conv")(x)
    return BatchNorm(not train, dtype=dtype, name="downsample_norm")(x)


def max_pool(x: Float[Array, "B H W C"], ceil: bool) -> Float[Array, "B h w C"]:
    """3x3, stride 2, one pixel of padding: a side n becomes (n - 1) / 2, rounded down or up, plus 1.

    Rounding up takes a second pixel of padding behind an even side; behind an odd one no window reaches it.
    """
    return _max_pool(x, ((1, 1 + ceil),) * 2)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _max_pool(x: Float[Array, "B H W C"], padding: tuple[tuple[int, int], ...]) -> Float[Array, "B h w C"]:
    return nn.max_pool(x, (3, 3), (2, 2), padding)


@_max_pool.defjvp
def _pooled_jvp(
    padding: tuple[tuple[int, int], ...], primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """The change of the first largest pixel of each window, as in PyTorch.

    The same as that of `nn.max_pool`, for which XLA keeps the number of each pixel, of four bytes.

    The pixel is found by a running maximum over the window's nine, and never by comparing them with `out`:
    in a compiled program XLA may compute x a second time, rounded otherwise, so that no pixel equals `out`
    and the window's gradient is lost. A running maximum always chooses exactly one.
    """
    out = _max_pool(primals[0], padding)
    height, width = out.shape[1:3]

    def taps(x: jax.Array, outside: float) -> list[jax.Array]:
        """The nine pixels of every window, [B, h, w, C] each."""
        padded = jnp.pad(x, ((0, 0), *padding, (0, 0)), constant_values=outside)
        return [
            padded[:, i : i + 2 * height - 1 : 2, j : j + 2 * width - 1 : 2]
            for i in range(3)
            for j in range(3)
        ]

    largest, *others = taps(primals[0], -jnp.inf)
    chosen = jnp.zeros(out.shape, jnp.uint8)
    for i, pixel in enumerate(others, 1):
        chosen = jnp.where(pixel > largest, i, chosen)
        largest = jnp.maximum(pixel, largest)
    changes = [jnp.where(chosen == i, change, 0) for i, change in enumerate(taps(tangents[0], 0))]
    return out, functools.reduce(jnp.add, changes)


class ResNet(nn.Module):
    """The four stages of a ResNet.

    Attributes:
      depth: a key of `BLOCKS`.
      stem_channels: of the stem's three 3x3 convolutions, the first of stride 2; a single number is that
        of one 7x7 convolution of stride 2, torchvision's stem.
      ceil_pool: max pool rounds sizes up (official CCNet) or down (mmsegmentation).
      contract_dilation: the first block of stages 3 and 4 has half its stage's dilation.
      width: multiplier of every channel count.
      remat: what the backward pass computes again in the stem and in each block, a key of `REMAT`.
      dtype: of the computation; parameters and statistics stay float32.
      dilated: stages 3 and 4 keep stride 8 with dilations 2 and 4; otherwise they have strides 16 and 32.
      before_last: a module (x, train) between the last two blocks of stage 3. Paper: section 4.5.
      frozen: norms keep their statistics, and no gradient flows into the stem and stage 1.
    """

    depth: int = 50
    stem_channels: tuple[int, ...] = (64, 64, 128)
    ceil_pool: bool = True
    contract_dilation: bool = False
    width: float = 1.0
    remat: str = "none"
    dtype: DTypeLike | None = None
    dilated: bool = True
    before_last: Callable[[jax.Array, bool], jax.Array] | None = None
    frozen: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W 3"], train: bool
    ) -> tuple[
        Float[Array, "B h1 w1 C1"],
        Float[Array, "B h2 w2 C2"],
        Float[Array, "B h3 w3 C3"],
        Float[Array, "B h4 w4 C4"],
    ]:
        """x: [B, H, W, 3] -> the outputs of the four stages; each has twice the channels of the one before.

        Sides are those of x over 4, 8, 8, 8 or over 4, 8, 16, 32, rounded up by the rule of `max_pool`: at
        stride 8, 97 for 769, 65 or 64 for 512.
        """
        moving = train and not self.frozen
        x = with_remat(_stem, self.remat)(self, x, moving)
        block = with_remat(Bottleneck if self.depth >= 50 else BasicBlock, self.remat)
        outputs = []
        for stage, blocks in enumerate(BLOCKS[self.depth]):
            for i in range(blocks):
                dilation = _DILATIONS[self.dilated][stage]
                if i == 0 and self.contract_dilation:
                    dilation = max(dilation // 2, 1)
                if stage == 2 and i == blocks - 1 and self.before_last is not None:
                    x = self.before_last(x, train)
                x = block(
                    scale_channels(64 * 2**stage, self.width),
                    stride=1 if i else _STRIDES[self.dilated][stage],
                    dilation=dilation,
                    dtype=self.dtype,
                    name=f"layer{stage + 1}_{i}",
                )(x, moving)
            if stage == 0 and self.frozen:
                x = jax.lax.stop_gradient(x)
            outputs.append(x)
        return outputs[0], outputs[1], outputs[2], outputs[3]


def _stem(resnet: ResNet, x: Float[Array, "B H W 3"], train: bool) -> Float[Array, "B h w C"]:
    """The first convolutions and the max pool: [B, H, W, 3] to a quarter of each side."""
    size = 7 if len(resnet.stem_channels) == 1 else 3
    for i, channels in enumerate(resnet.stem_channels, 1):
        channels = scale_channels(channels, resnet.width)
        stride = 2 if i == 1 else 1
        x = conv(channels, size, stride=stride, dtype=resnet.dtype, name=f"stem_conv{i}")(x)
        x = nn.relu(BatchNorm(not train, dtype=resnet.dtype, name=f"stem_norm{i}")(x))
    return max_pool(x, resnet.ceil_pool)


def build(settings: BackboneSettings, name: str | None = None) -> ResNet:
    """The ResNet of a flavour."""
    flavour = settings.flavour
    return ResNet(
        settings.depth,
        (64,) if settings.stem == "7x7" else flavour.stem_channels,
        flavour.ceil_pool,
        flavour.contract_dilation,
        settings.width,
        settings.remat,
        settings.dtype,
        name=name,
    )


BACKBONE = Backbone(depths=tuple(BLOCKS), build=build)
