"""The networks that the page shows, in every way in which it can run them."""

import dataclasses
from collections.abc import Hashable
from typing import Any

import jax
import numpy as np

from ccnet_jax.common.errors import UserError
from ccnet_jax.evaluation.attention import feature_at, inputs_of_loops, maps_of
from ccnet_jax.figures import tints
from ccnet_jax.tools.page.uploads import Store, Upload

LOOPS = (0, 1, 2, 3)  # of RCCA, that the page offers; a network that was trained with more offers them too
MOST_PROGRAMS = 48  # that stay compiled: each keeps megabytes; one more, and all are forgotten


@dataclasses.dataclass(frozen=True)
class Way:
    """How a network is run.

    Attributes:
      loops: of RCCA; None as it was trained.
      several: at several scales and mirrored, instead of as its config says.
    """

    loops: int | None = None
    several: bool = False


class Network:
    """A run's network.

    Args:
      name: of the run, as the user gave it.
      model: what `inference.load` gives, a `TrainedModel`.
    """

    def __init__(self, name: str, model: Any):
        self.name, self.model = name, model
        self._inputs: Store[Any] = Store("the attention", most=2)  # features of loops: up to 100 MB each

    @property
    def loops(self) -> tuple[int, ...]:
        """The numbers of loops to choose from; () where the model has no choice."""
        return () if self.model.loops is None else tuple(sorted({*LOOPS, self.model.loops}))

    def describe(self) -> dict[str, Any]:
        """What the page tells of it, for JSON. Colours are those of overlays: dark ones are lifted."""
        network = self.model.network
        colours = [f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in tints(self.model.palette)]
        return {
            "name": self.name,
            "labels_pixels": self.model.labels_pixels,
            "classes": [
                {"name": name, "colour": colour}
                for name, colour in zip(self.model.classes, colours, strict=True)
            ],
            "context": network.context,
            "loops": self.model.loops,
            "choices": self.loops,
            "mode": str(self.model.mode) if self.model.labels_pixels else "",
        }

    def summary(self) -> str:
        """A line for the terminal."""
        network = self.model.network
        context = network.context if network.context != "rcca" else f"RCCA, loops {network.loops}"
        return f"{self.name}: {len(self.model.classes)} classes, context {context}"

    def check(self, way: Way) -> None:
        """Raise UserError where the network cannot be run so."""
        if way.loops is not None and way.loops not in self.loops:
            raise UserError(
                f"{self.name} runs with {', '.join(map(str, self.loops))} loops, not {way.loops}"
                if self.loops
                else f"loops are RCCA's, and {self.name} offers none to choose"
            )
        if way.several and not self.model.labels_pixels:
            raise UserError(f"{self.name} {self.model.does}, which is done at one scale")

    def sizes(self, way: Way) -> int:
        """In how many sizes the network sees an image: each has a program of its own."""
        return len(self._in(way).mode.scales) if self.model.labels_pixels else 1

    def run(self, image: Upload, way: Way) -> Any:
        """What the model's `predict` gives for an image. Raises UserError."""
        self.check(way)
        return self._in(way).predict(image.pixels)

    def attention(self, key: object, image: Upload, way: Way, point: tuple[int, int]) -> np.ndarray:
        """What a pixel attends to after each loop, float32 [loops, h, w]; see `evaluation.attention`.

        Args:
          key: of the image: what does not depend on the pixel is kept under it.
          image: at one scale, shown whole.
          way: of which only the number of loops counts.
          point: (row, column) in `image.pixels`.

        Raises:
          UserError: the network has no such loops, or the point is no pixel.
        """
        self.check(way)
        if not self.loops:
            raise UserError(
                f"attention is shown of networks that label pixels with RCCA; {self.name} is none"
            )
        loops = self.model.loops if way.loops is None else way.loops
        if not loops:
            raise UserError("without a loop of RCCA a pixel attends to no other; choose 1 loop or more")
        height, width = image.pixels.shape[:2]
        if not (0 <= point[0] < height and 0 <= point[1] < width):
            raise UserError(f"the image has {height} rows and {width} columns, and no pixel {point}")
        model = self._in(Way(loops))
        inputs = self._inputs.find((key, loops))
        if inputs is None:
            inputs = inputs_of_loops(model.network, model.variables, image.pixels)
            self._inputs.put(inputs, (key, loops))
        return maps_of(model.variables, inputs, feature_at(point, image.pixels, inputs))

    def _in(self, way: Way) -> Any:
        """The model that runs in this way; the weights are shared."""
        model = self.model
        if way.loops is not None and way.loops != model.loops:
            model = model.with_loops(way.loops)
        return model.ms_flip() if way.several else model


class Programs:
    """Keeps the number of compiled programs bounded, however many sizes of images come.

    Args:
      most: programs of networks that are kept.
    """

    def __init__(self, most: int = MOST_PROGRAMS):
        self._most = most
        self._known: dict[Hashable, int] = {}

    def about_to_run(self, key: Hashable, count: int) -> bool:
        """Note what is run now, and forget all programs before where they would be too many.

        Args:
          key: of the network, the way and the size.
          count: programs of the network that it takes.

        Returns:
          Whether it may have to be compiled.
        """
        if key in self._known:
            return False
        if sum(self._known.values()) + count > self._most:
            jax.clear_caches()
            self._known.clear()
        self._known[key] = count
        return True
