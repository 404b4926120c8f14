"""What the programs need to know of a task."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax

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
      model: (config, network, variables, classes) -> what `ccnet_jax.load` gives: one object with a call for
        batches and `predict` for an image.
      modes: whether images can be tested in windows, at several scales, and mirrored.
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
    model: Callable[[Config, Any, Variables, Classes], Any]
    modes: bool
