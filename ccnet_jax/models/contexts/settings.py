"""What a context module is built from."""

import dataclasses
from collections.abc import Callable

import jax
from jax.typing import DTypeLike


@dataclasses.dataclass(frozen=True)
class ContextSettings:
    """What a context module is built from. A module ignores the settings that it has no use for.

    Attributes:
      loops: of RCCA.
      implementation: backend of criss-cross attention; None chooses by device.
      align_corners: how pooled features are upsampled.
      negative_slope: of the leaky ReLU after norms; 0 is ReLU.
      remat: what the backward pass computes again, a key of `layers.REMAT`.
      dtype: of the computation; parameters and statistics stay float32.
    """

    loops: int = 2
    implementation: str | None = None
    align_corners: bool = False
    negative_slope: float = 0.0
    remat: str = "none"
    dtype: DTypeLike | None = None


# (x [B, H, W, C], train) -> [B, H, W, C]
Context = Callable[[jax.Array, bool], jax.Array]
# A member of `CONTEXTS`: (settings, name) -> a Flax module of that name, or a function that calls one.
BuildContext = Callable[[ContextSettings, str], Context]
