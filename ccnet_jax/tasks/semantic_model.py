"""A trained network that labels pixels, as one object. `ccnet_jax.load` gives it for such a run.

model = ccnet_jax.load("runs/latest")
logits = jax.jit(model)(images)            # uint8 RGB [B, H, W, 3] -> float32 [B, H, W, num_classes]
prediction = model.predict("street.jpg")   # of any size; .label, .probabilities, .overlay
"""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable
from typing import Any, ClassVar

import flax
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float32, UInt8

from ccnet_jax import figures
from ccnet_jax.common.errors import UserError
from ccnet_jax.common.words import number_of
from ccnet_jax.data.user_images import image_name, read_image
from ccnet_jax.evaluation.attention import attention_maps
from ccnet_jax.evaluation.prediction import NotFinite, scorer
from ccnet_jax.evaluation.test_mode import WHOLE, TestMode
from ccnet_jax.models.ccnet import CCNet
from ccnet_jax.models.flavours import FLAVOURS
from ccnet_jax.models.variables import Variables
from ccnet_jax.tasks.inputs import check_batch

_ROWS = 64  # of an image, whose probabilities are looked at together


class Prediction(flax.struct.PyTreeNode):
    """What a network predicts for one image.

    Attributes:
      label: uint8 [H, W], the index of the most probable class of each pixel.
      probabilities: float32 [H, W, num_classes]; those of a pixel sum to 1.
      overlay: uint8 [H, W, 3] RGB, the image blended with the classes' colours.
    """

    label: UInt8[np.ndarray, "H W"]
    probabilities: Float32[np.ndarray, "H W K"]
    overlay: UInt8[np.ndarray, "H W 3"]

    def as_found(self) -> "Labels":
        """What the page keeps of it."""
        return Labels.of(self)


@dataclasses.dataclass(frozen=True)
class Labels:
    """What is kept of a `Prediction`: all uint8 [H, W].

    Attributes:
      first, second: the most probable class of each pixel, and the next.
      first_fraction, second_fraction: their probabilities; 255 is 1.
    """

    first: np.ndarray
    first_fraction: np.ndarray
    second: np.ndarray
    second_fraction: np.ndarray

    @classmethod
    def of(cls, prediction: Prediction) -> "Labels":
        """The two most probable classes; some rows at a time, since probabilities are large."""
        parts = []
        for start in range(0, len(prediction.label), _ROWS):
            rows = slice(start, start + _ROWS)
            left, first = prediction.probabilities[rows].copy(), prediction.label[rows]
            first_fraction = _take_planes(left, first)
            second = left.argmax(-1).astype(np.uint8)
            parts.append((first, first_fraction, second, _take_planes(left, second)))
        return cls(*(np.concatenate(planes) for planes in zip(*parts, strict=True)))

    def describe(self, classes: int) -> tuple[dict[str, Any], list[np.ndarray]]:
        """The fraction of the pixels that each class has; the classes and their probabilities."""
        areas = np.bincount(self.first.ravel(), minlength=classes) / self.first.size
        planes = [self.first, self.first_fraction, self.second, self.second_fraction]
        return {"kind": "labels", "areas": areas.tolist()}, planes

    def label(self, name: str) -> np.ndarray:
        """The most probable class of each pixel."""
        return self.first

    def overlay_on(self, pixels: np.ndarray, palette: np.ndarray, opacity: float) -> np.ndarray:
        """The image under the classes' colours."""
        return figures.overlay(pixels, self.first, palette, opacity)


def _take_planes(probabilities: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """The classes' probabilities as uint8 [H, W]; in `probabilities` [H, W, K] they become -1."""
    place = classes[..., None].astype(np.intp)
    fractions = np.take_along_axis(probabilities, place, -1)[..., 0]
    np.put_along_axis(probabilities, place, -1, -1)
    return np.round(255 * fractions.clip(0, 1)).astype(np.uint8)


class Model(flax.struct.PyTreeNode, eq=False):
    """A network with its weights. It is a pytree whose leaves are the weights.

    `jax.jit(model)`, `jax.vmap(model)` and `jax.jit(lambda model, images: model(images))` work. A batch that
    is split over devices stays split, if the weights lie on all of them (`jax.device_put(model, sharding)`).

    Attributes:
      variables: {"params", "batch_stats"}.
      network: the Flax module.
      classes: names of the classes.
      colours: (red, green, blue) of each class.
      numbers: what stands for each class in the label files of the run's data set, 0 to 255. Label maps that
        are written have them, so that they can be read as labels of that data set.
      mode: how `predict` tests an image; `replace(mode=...)` gives a model with another.
    """

    variables: Variables
    network: CCNet = flax.struct.field(pytree_node=False)
    classes: tuple[str, ...] = flax.struct.field(pytree_node=False)
    colours: tuple[tuple[int, int, int], ...] = flax.struct.field(pytree_node=False)
    numbers: tuple[int, ...] = flax.struct.field(pytree_node=False)
    mode: TestMode = flax.struct.field(pytree_node=False, default=WHOLE)
    labels_pixels: ClassVar[bool] = True
    does: ClassVar[str] = "labels pixels"
    written: ClassVar[str] = "{} labelled"

    @property
    def palette(self) -> np.ndarray:
        """The classes' colours, uint8 [classes, 3] RGB."""
        return np.array(self.colours, np.uint8)

    def __call__(self, images: jax.Array | np.ndarray) -> Float32[Array, "B H W K"]:
        """The network's logits for a batch of images.

        Args:
          images: RGB [B, H, W, 3], values from 0 to 255, uint8 or floating. Do not
            normalise them: the network does. Under `jax.jit` and `jax.vmap` the values of floating images
            cannot be inspected: only shape and dtype are checked there.

        Returns:
          float32 [B, H, W, num_classes].

        Raises:
          UserError: the images have another shape or dtype, or floating values that are not 0 to 255.
        """
        check_batch(images)
        return self.network.apply(self.variables, images)[0]

    def predict(self, image: str | os.PathLike | np.ndarray | jax.Array) -> Prediction:
        """The prediction for one image, tested as `mode` says.

        Args:
          image: a file's path, in which "~" is the user's home, or uint8 [H, W, 3] RGB of any size.

        Raises:
          UserError: the file cannot be read, the array is not such an image, or the network's output is not
            finite.
        """
        pixels = read_image(image)
        images = jax.device_put(pixels[None], jax.tree.leaves(self.variables)[0].sharding)
        scores = scorer(self.network, self.mode)(self.variables, images)[0]
        probabilities = np.asarray(_probabilities(scores, jnp.asarray(self.mode.sums_probabilities)))
        if not np.isfinite(probabilities).all():
            raise NotFinite(image_name(image))
        label = probabilities.argmax(-1).astype(np.uint8)
        return Prediction(label, probabilities, figures.overlay(pixels, label, self.palette))

    @property
    def loops(self) -> int | None:
        """The number of RCCA's loops; None in a network with another context module."""
        return self.network.loops if self.network.context == "rcca" else None

    def with_loops(self, loops: int) -> "Model":
        """The same weights with another number of RCCA's loops, which share them; 0 leaves the module out.

        Args:
          loops: 0 or more. With 0 the features pass unchanged, as in a network with the context "none".

        Raises:
          UserError: the network has another context.
        """
        if self.loops is None:
            raise UserError(f"loops are RCCA's, and this network's context is {self.network.context!r}")
        change = {"loops": loops} if loops else {"context": "none"}
        return self.replace(network=self.network.clone(**change))

    def ms_flip(self) -> "Model":
        """The same network, tested at its flavour's scales with mirror images."""
        return self.replace(mode=self.mode.ms_flip(FLAVOURS[self.network.flavour]))

    def writer(
        self, run: object, ms_flip: bool, point: tuple[int, int] | None, loops: tuple[int, ...]
    ) -> Callable[[np.ndarray, pathlib.Path], None]:
        """What writes the results of an image; see `TrainedModel.writer`."""
        if (point or loops) and self.loops is None:
            raise UserError(
                f"--attention and --loops are RCCA's; the network in {run} has the context "
                f"{self.network.context!r}"
            )
        model = self.ms_flip() if ms_flip else self
        return functools.partial(write_results, model, point=point, loops=loops)


def write_results(
    model: Model,
    image: np.ndarray,
    stem: pathlib.Path,
    point: tuple[int, int] | None = None,
    loops: tuple[int, ...] = (),
) -> None:
    """Label one image and write the results.

    Args:
      model: the network.
      image: the image, uint8 [H, W, 3] RGB.
      stem: OUT/NAME, what the results' paths begin with.
      point: (row, column) of the pixel whose attention is drawn, None for none.
      loops: numbers of loops to compare, () for no comparison.
    """

    def result(kind: str) -> pathlib.Path:
        return stem.with_name(f"{stem.name}{kind}.png")

    prediction = model.predict(image)
    figures.save_labels(result(""), prediction.label, model.palette, model.numbers)
    figures.save_image(result("-overlay"), prediction.overlay)
    figure = figures.prediction_figure(image, {"prediction": prediction.label}, model.classes, model.palette)
    figures.save_image(result("-figure"), figure)
    if point is not None:
        maps = attention_maps(model.network, model.variables, image, point)
        figures.save_image(result("-attention"), figures.attention_figure(image, maps, point))
    if loops:
        labels = {number_of(n, "loop"): model.with_loops(n).predict(image).label for n in loops}
        figure = figures.prediction_figure(image, labels, model.classes, model.palette)
        figures.save_image(result("-loops"), figure)


@jax.jit
def _probabilities(
    scores: Float32[Array, "H W K"], are_probabilities: Bool[Array, ""]
) -> Float32[Array, "H W K"]:
    """Scores, which are sums of probabilities or logits, as probabilities that sum to 1."""
    return jnp.where(are_probabilities, scores / scores.sum(-1, keepdims=True), jax.nn.softmax(scores))
