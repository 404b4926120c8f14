"""What the programs need to know of a task."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol

import jax
import numpy as np

from ccnet_jax.common.labels import Classes
from ccnet_jax.config.config import Config
from ccnet_jax.data.config import DataConfig
from ccnet_jax.data.stream import TrainBatches
from ccnet_jax.evaluation.test_mode import TestMode
from ccnet_jax.models.variables import Variables
from ccnet_jax.training.optimizers import IsTrained
from ccnet_jax.training.step import Loss

Result = Mapping[str, Any]  # of an evaluation; JSON can hold it
Shapes = dict[str, jax.ShapeDtypeStruct]
Size = tuple[int, int]  # (height, width)


class Tester(Protocol):
    """A network that is ready to be evaluated."""

    def __call__(
        self,
        variables: Variables,
        source: Any,
        *,
        drawings: pathlib.Path | None = None,
        limit: int | None = None,
        labels: pathlib.Path | None = None,
        between: Callable[[], None] = lambda: None,
    ) -> Result:
        """Scores on every image of `source`; each process looks at its part.

        Args:
          variables: of the network, on all devices.
          source: the images of a split.
          drawings: folder for comparisons of the first ones, None for none.
          limit: take only the first images.
          labels: folder for all predictions in the data set's own form, None for none.
          between: called between two batches; what it raises ends the evaluation.
        """


class Found(Protocol):
    """What a page shows of what was found in an image."""

    def describe(self, classes: int) -> tuple[dict[str, Any], list[np.ndarray]]:
        """What JSON can hold, and planes uint8 [H, W]; the page knows them by "kind"."""

    def label(self, name: str) -> np.ndarray:
        """uint8 [H, W], a class for each pixel. Raises UserError where the network `name` gives none."""

    def overlay_on(self, pixels: np.ndarray, palette: np.ndarray, opacity: float) -> np.ndarray:
        """uint8 RGB, the image with what was found."""


class TrainedModel(Protocol):
    """A trained network as one object: a call for batches, `predict` for an image, and what programs ask.

    Attributes:
      classes: their names.
      labels_pixels, does: as in `Task`.
      written: what `predict` says of images whose results are written.
    """

    variables: Variables
    network: Any
    classes: tuple[str, ...]
    labels_pixels: ClassVar[bool]
    does: ClassVar[str]
    written: ClassVar[str]

    @property
    def palette(self) -> np.ndarray:
        """The classes' colours, uint8 [classes, 3] RGB."""

    @property
    def loops(self) -> int | None:
        """Of RCCA, where a user may choose another number; None where there is no choice."""

    def predict(self, image: Any) -> Any:
        """What the network finds in an image of any size; its `as_found()` is a `Found`."""

    def writer(
        self, run: object, ms_flip: bool, point: tuple[int, int] | None, loops: tuple[int, ...]
    ) -> Callable[[np.ndarray, pathlib.Path], None]:
        """What writes the results of an image, uint8 [H, W, 3] RGB, to paths that begin with OUT/NAME.

        Args:
          run: what to call the network in messages.
          ms_flip: test at several scales and mirrored.
          point: (row, column) of the pixel whose attention is drawn, None for none.
          loops: numbers of loops to compare, () for no comparison.

        Raises:
          UserError: the network cannot do that.
        """


@dataclasses.dataclass(frozen=True)
class Task:
    """What a batch, a network, its loss, a prediction and a score are.

    Attributes:
      open: (config.data, split) -> the images of a split. Raises UserError.
      open_unlabelled: the same, of a split that is predicted and whose labels may be missing.
      summary: (config, images, split) -> lines to print before training. Raises UserError.
      check: (config, images to train on, images of a process's batch); raises UserError where they do not
        go together.
      batches: (config, images, batches to leave out, process, processes) -> endless batches to train on.
      batch_names: (config, images, step, from 1) -> the names of the images in its batch, of all
        processes together.
      sizes: (config, images to train on) -> the (height, width) that batches have, as far as known before.
      shapes: (config, (height, width) of images, images) -> the shapes of such a batch.
      network: (config, number of classes) -> the network.
      is_trained: config -> which parameters the optimizer changes; None where it changes all.
      loss: (config, network) -> what training makes smaller.
      tester: (config, network, mode) -> what evaluates it.
      scores: result -> {name: fraction of 1}, the one that says which checkpoint is best first; {} where the
        images have nothing to score.
      table: (result, names of the classes) -> text to print.
      model: (config, network, variables, classes) -> what `ccnet_jax.load` gives, a `TrainedModel`.
      forward: (config, network) -> the function (variables, images [B, H, W, 3], int [B, 2] sizes of the
        images, None where each fills its array) -> what the network finds in them: logits, or a named tuple.
      planned_sizes: (config, (height, width) of all images of the data set or None) -> those of the images
        in a batch, and of a tested image. Raises UserError where the config does not tell.
      export_shape: (config, "batch", "height" and "width" as far as a user asks for them) -> those of the
        images that an exported file takes; None, or a missing one, is any. Raises UserError.
      preview: (config, images to train on, images to draw, images to count, PNG file): prints what they
        hold, and draws the first that training sees. Raises UserError.
      labels_pixels: whether the network gives logits of every pixel. Then images can be tested in windows, at
        several scales and mirrored, and exported files can give probabilities.
      does: what the network does, in messages.
    """

    open: Callable[[DataConfig, str], Any]
    open_unlabelled: Callable[[DataConfig, str], Any]
    summary: Callable[[Config, Any, str], str]
    check: Callable[[Config, Any, int], None]
    batches: Callable[[Config, Any, int, int, int], TrainBatches]
    batch_names: Callable[[Config, Any, int], list[str]]
    sizes: Callable[[Config, Any], list[tuple[int, int]]]
    shapes: Callable[[Config, tuple[int, int], int], Shapes]
    network: Callable[[Config, int], Any]
    is_trained: Callable[[Config], IsTrained | None]
    loss: Callable[[Config, Any], Loss]
    tester: Callable[[Config, Any, TestMode], Tester]
    scores: Callable[[Result], dict[str, float]]
    table: Callable[[Result, tuple[str, ...]], str]
    model: Callable[[Config, Any, Variables, Classes], TrainedModel]
    forward: Callable[[Config, Any], Callable[..., Any]]
    planned_sizes: Callable[[Config, Size | None], tuple[Size, Size]]
    export_shape: Callable[[Config, dict[str, int | None]], dict[str, int | None]]
    preview: Callable[[Config, Any, int, int, pathlib.Path], None]
    labels_pixels: bool
    does: str
