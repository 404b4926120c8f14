"""What a backbone is built from, and what the rest of the package has to know of it."""

import dataclasses
from collections.abc import Callable

import flax.linen as nn
from jax.typing import DTypeLike

from ccnet_jax.models.flavours import Flavour


@dataclasses.dataclass(frozen=True)
class BackboneSettings:
    """What a backbone is built from.

    Attributes:
      depth: one of the backbone's `depths`.
      flavour: the code base whose network is built.
      stem: "deep" or "7x7"; a backbone without such a stem ignores it.
      width: multiplier of every channel count.
      remat: what the backward pass computes again, a key of `layers.REMAT`.
      dtype: of the computation; parameters and statistics stay float32.
    """

    depth: int
    flavour: Flavour
    stem: str = "deep"
    width: float = 1.0
    remat: str = "none"
    dtype: DTypeLike | None = None


@dataclasses.dataclass(frozen=True)
class Backbone:
    """A member of `BACKBONES`.

    Attributes:
      depths: the allowed values of `model.depth`.
      build: (settings, name) -> a Flax module of that name. The module is called with
        (x [B, H, W, 3], train) and returns the features of its stages. The last two are [B, h, w, C3] for the
        auxiliary head and [B, h, w, C4] for the head. h and w are an eighth of H and W.
    """

    depths: tuple[int, ...]
    build: Callable[[BackboneSettings, str | None], nn.Module]
