"""Where the two published CCNet code bases differ: one `Flavour` each."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, UInt8


@dataclasses.dataclass(frozen=True)
class Flavour:
    """Everything that depends on the code base whose network is built.

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
      scaling: what resizes images in multi-scale testing, a key of `evaluation.test_mode.SCALINGS`.
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
    scaling: str
    in_place_norms: bool


FLAVOURS: dict[str, Flavour] = {
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
        scaling="scipy",
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
        scaling="mmcv",
        in_place_norms=False,
    ),
}


def normalize(
    images: UInt8[Array | np.ndarray, "B H W 3"] | Float[Array | np.ndarray, "B H W 3"],
    flavour: Flavour,
    dtype: DTypeLike = jnp.float32,
) -> Float[Array, "B H W 3"]:
    """RGB [B, H, W, 3] of 0 to 255, uint8 or floating -> as the flavour's backbone expects it.

    dtype: of the computation and the result.
    """
    mean, std = (jnp.array(values, dtype) for values in (flavour.mean, flavour.std))
    x = (jnp.asarray(images, dtype) - mean) / std
    return jnp.flip(x, -1) if flavour.bgr else x
