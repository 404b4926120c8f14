"""How images are tested: whole or in sliding windows, at one scale or at several with mirror images."""

import dataclasses
import itertools

from ccnet_jax.data.sizes import SMALLEST, mmcv_size, scaled_size, scipy_size
from ccnet_jax.models.flavours import FLAVOURS, Flavour

# (height, width), ratio -> (height, width): the size that a code base's resizing gives
SCALINGS = {"mmcv": mmcv_size, "scipy": scipy_size}


@dataclasses.dataclass(frozen=True)
class TestMode:
    """How images are tested, in the words of mmsegmentation's configs; by default whole and unchanged.

    Attributes:
      resize: (long, short) sides of a box into which an image is resized first; None leaves it unchanged.
      window: (height, width) of sliding windows; None shows the network the whole image.
      stride: (down, across) from one window to the next; goes with `window`.
      scales: ratios of the image's size, as `resize` left it, at which the network sees it.
      flip: at each scale the network also sees the mirror image.
      average_logits: scales and mirror images are averaged as logits, as the authors' code does. Otherwise
        probabilities are averaged, as mmsegmentation does.
      scaling: what resizes by a ratio: "mmcv", as in mmsegmentation, or "scipy", as in the authors' code.
        They round sizes otherwise, and the second puts the centres of corner pixels on one another.
    """

    __test__ = False  # pytest: the name does not make this a test

    resize: tuple[int, int] | None = None
    window: tuple[int, int] | None = None
    stride: tuple[int, int] | None = None
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    average_logits: bool = False
    scaling: str = "mmcv"

    def ms_flip(self, flavour: Flavour) -> "TestMode":
        """The same mode at the flavour's scales with mirror images, resized and averaged as its code does it.

        mmsegmentation's scales are of the image's own size, without the box.
        """
        return dataclasses.replace(
            self,
            resize=None if flavour.scaling == "mmcv" else self.resize,
            scales=flavour.scales,
            flip=True,
            average_logits=flavour.average_logits,
            scaling=flavour.scaling,
        )

    def __str__(self) -> str:
        """For example "resize 2049x1025, slide 769x769/513x513, ms-flip"; sizes in the config's order."""
        words = [] if self.resize is None else ["resize {}x{}".format(*self.resize)]
        if self.window is None or self.stride is None:
            words += ["whole"]
        else:
            words += ["slide {}x{}/{}x{}".format(*self.window, *self.stride)]
        if self.flip and self.scales in [flavour.scales for flavour in FLAVOURS.values()]:
            words += ["ms-flip"]
        elif self.scales != (1.0,) or self.flip:
            words += [f"scales {', '.join(map(str, self.scales))}", *["flip"] * self.flip]
        return ", ".join(words)

    def passes(self) -> list[tuple[float, bool]]:
        """(scale, mirrored or not) of every pass through the network."""
        return list(itertools.product(self.scales, (False, True) if self.flip else (False,)))

    @property
    def sums_probabilities(self) -> bool:
        """Whether `prediction.scorer` sums probabilities instead of logits."""
        return len(self.passes()) > 1 and not self.average_logits

    def input_size(self, size: tuple[int, int], scale: float) -> tuple[int, int]:
        """The (height, width) at which the network sees an image of `size`, at one of the scales."""
        size = scaled_size(size, self.resize, 1.0)
        height, width = size if scale == 1 else SCALINGS[self.scaling](size, scale)
        return max(height, SMALLEST), max(width, SMALLEST)

    def aligns_corners(self, scale: float) -> bool:
        """Whether resizing at a scale puts the centres of corner pixels on one another, as `ndimage.zoom`."""
        return self.scaling == "scipy" and scale != 1


WHOLE = TestMode()
