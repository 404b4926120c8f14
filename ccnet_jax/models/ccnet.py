"""CCNet: a dilated ResNet, a head around a context module, an auxiliary head. Paper: Figure 2."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ccnet_jax.models.context import Context
from ccnet_jax.models.layers import ConvNorm, resize_bilinear, scaled
from ccnet_jax.models.resnet import ResNet


@dataclasses.dataclass(frozen=True)
class Flavour:
    """Where the two published CCNet code bases differ.

    Attributes:
      stem_channels: of the three 3x3 convolutions of the deep stem.
      ceil_pool: max pool rounds sizes up.
      contract_dilation: the first block of stages 3 and 4 has half the dilation.
      negative_slope: of the leaky ReLU in the heads; 0 is ReLU.
      auxiliary_channels: of the auxiliary head.
      auxiliary_bias: its 3x3 convolution has a bias.
      align_corners: how logits, and PSP's pooled features, are upsampled.
      mean, std: input normalisation, in RGB order, for values 0 to 255.
      bgr: the network reads blue first.
      scales: ratios of multi-scale testing.
      average_logits: multi-scale testing averages logits; otherwise probabilities.
      in_place_norms: norms are in-place ABN, whose scale is |weight| + 1e-5.
    """

    stem_channels: tuple[int, int, int]
    ceil_pool: bool
    contract_dilation: bool
    negative_slope: float
    auxiliary_channels: int
    auxiliary_bias: bool
    align_corners: bool
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    bgr: bool
    scales: tuple[float, ...]
    average_logits: bool
    in_place_norms: bool


FLAVOURS = {
    # the authors' code
    "official": Flavour(
        stem_channels=(64, 64, 128),
        ceil_pool=True,
        contract_dilation=False,
        negative_slope=0.01,
        auxiliary_channels=512,
        auxiliary_bias=True,
        align_corners=True,
        mean=(122.67891434, 116.66876762, 104.00698793),
        std=(1.0, 1.0, 1.0),
        bgr=True,
        scales=(0.75, 1.0, 1.25, 1.5, 1.75, 2.0),
        average_logits=True,
        in_place_norms=True,
    ),
    # mmsegmentation's R-50-D8 and R-101-D8
    "mmseg": Flavour(
        stem_channels=(32, 32, 64),
        ceil_pool=False,
        contract_dilation=True,
        negative_slope=0.0,
        auxiliary_channels=256,
        auxiliary_bias=False,
        align_corners=False,
        mean=(123.675, 116.28, 103.53),
        std=(58.395, 57.12, 57.375),
        bgr=False,
        scales=(0.5, 0.75, 1.0, 1.25, 1.5, 1.75),
        average_logits=False,
        in_place_norms=False,
    ),
}


# The backbone's first layers: the flavour's three 3x3 convolutions, or torchvision's one of 7x7.
STEMS = ("deep", "7x7")


def normalize(images: jax.Array, flavour: Flavour) -> jax.Array:
    """RGB [B, H, W, 3] of 0 to 255, uint8 or floating -> float32 as the flavour's backbone expects it."""
    x = (images.astype(jnp.float32) - jnp.array(flavour.mean)) / jnp.array(flavour.std)
    return x[..., ::-1] if flavour.bgr else x


class Head(nn.Module):
    """3x3, context module, 3x3, joined with its input, 3x3, dropout of whole channels, 1x1."""

    num_classes: int
    channels: int
    context: Context
    negative_slope: float
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """x: [B, h, w, C] -> logits [B, h, w, num_classes]."""

        def block(name: str) -> ConvNorm:
            return ConvNorm(self.channels, negative_slope=self.negative_slope, dtype=self.dtype, name=name)

        out = block("before")(x, train)
        out = self.context(out, train)
        out = block("after")(out, train)
        out = block("fuse")(jnp.concatenate([x, out], -1), train)
        return _classify(out, self.num_classes, train, self.dtype)


class AuxiliaryHead(nn.Module):
    """3x3, dropout of whole channels, 1x1, on stage 3; used in training only."""

    num_classes: int
    channels: int
    bias: bool
    negative_slope: float
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """x: [B, h, w, C] -> logits [B, h, w, num_classes]."""
        block = ConvNorm(
            self.channels, bias=self.bias, negative_slope=self.negative_slope, dtype=self.dtype, name="conv"
        )
        return _classify(block(x, train), self.num_classes, train, self.dtype)


def _classify(x: jax.Array, num_classes: int, train: bool, dtype: Any) -> jax.Array:
    x = nn.Dropout(0.1, broadcast_dims=(1, 2), deterministic=not train)(x)
    start = nn.initializers.normal(0.01)
    return nn.Dense(num_classes, kernel_init=start, dtype=dtype, name="classifier")(x)


class CCNet(nn.Module):
    """The whole network, from RGB pictures to full-size logits.

    Attributes:
      num_classes: of the logits.
      depth: of the ResNet (`resnet.BLOCKS`).
      flavour: a key of `FLAVOURS`.
      context: a name in `context.CONTEXTS`; "rcca" is CCNet.
      loops: of RCCA.
      width: multiplier of every channel count.
      stem: of the ResNet, one of `STEMS`; both code bases have the deep one.
      align_corners: how logits, and PSP's pooled features, are upsampled; None is the flavour's way.
      implementation: backend of criss-cross attention; None chooses by device.
      remat: recompute ResNet blocks, and RCCA's projections, in the backward pass.
      dtype: of the computation, float32 or bfloat16; parameters, statistics and logits are float32.
    """

    num_classes: int
    depth: int = 50
    flavour: str = "official"
    context: str = "rcca"
    loops: int = 2
    width: float = 1.0
    stem: str = "deep"
    align_corners: bool | None = None
    implementation: str | None = None
    remat: bool = False
    dtype: Any = jnp.float32

    @property
    def aligned(self) -> bool:
        """`align_corners`, or the flavour's."""
        flavour = FLAVOURS[self.flavour]
        return flavour.align_corners if self.align_corners is None else self.align_corners

    @nn.compact
    def __call__(
        self, images: jax.Array, train: bool = False, upsample: bool = True
    ) -> tuple[jax.Array, jax.Array | None]:
        """RGB pictures to logits of the same size.

        Args:
          images: [B, H, W, 3], 0 to 255, uint8 or floating; H and W from 32.
          train: use and update batch statistics, drop channels (rng "dropout"), run the auxiliary head.
          upsample: to the pictures' size; else logits stay [B, h, w, num_classes] as the heads give them,
            an eighth of each side, for who resizes them on.

        Returns:
          logits [B, H, W, num_classes] in float32, and the auxiliary head's, None unless training.
        """
        flavour = FLAVOURS[self.flavour]
        x = normalize(images, flavour).astype(self.dtype)
        stage3, stage4 = ResNet(
            self.depth,
            (64,) if self.stem == "7x7" else flavour.stem_channels,
            flavour.ceil_pool,
            flavour.contract_dilation,
            self.width,
            self.remat,
            self.dtype,
            name="backbone",
        )(x, train)

        context = Context(
            self.context,
            self.loops,
            self.implementation,
            self.aligned,
            flavour.negative_slope,
            self.remat,
            self.dtype,
            parent=None,  # the head adopts it
        )
        head = Head(
            self.num_classes,
            scaled(512, self.width),
            context,
            flavour.negative_slope,
            self.dtype,
            name="head",
        )
        auxiliary_head = AuxiliaryHead(
            self.num_classes,
            scaled(flavour.auxiliary_channels, self.width),
            flavour.auxiliary_bias,
            flavour.negative_slope,
            self.dtype,
            name="auxiliary_head",
        )

        def sized(logits: jax.Array) -> jax.Array:
            logits = logits.astype(jnp.float32)
            return resize_bilinear(logits, images.shape[1:3], self.aligned) if upsample else logits

        logits = sized(head(stage4, train))
        if not (train or self.is_initializing()):
            return logits, None
        return logits, sized(auxiliary_head(stage3, train))
