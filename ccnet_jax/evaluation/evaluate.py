"""Scores of a network on a split, with images and label files."""

import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import UInt8

from ccnet_jax import figures
from ccnet_jax.common import devices, outputs
from ccnet_jax.common.labels import VOID
from ccnet_jax.common.progress import progress_bar
from ccnet_jax.data import pipeline
from ccnet_jax.data.sources import Source
from ccnet_jax.evaluation import metrics
from ccnet_jax.evaluation.prediction import NotFinite, Predict
from ccnet_jax.models.variables import Variables

DRAWN = 8  # images an evaluation draws


class Evaluation(metrics.Scores):
    """Scores of a network on a split.

    Attributes:
      confusion: the counts behind the scores, [true class][predicted class].
      images: number of images.
      images_per_second: of all hosts, with reading and compilation.
    """

    confusion: list[list[int]]
    images: int
    images_per_second: float


def evaluate(
    predict: Predict,
    variables: Variables,
    source: Source,
    batch_size: int,
    drawings: pathlib.Path | None = None,
    limit: int | None = None,
    labels: pathlib.Path | None = None,
    between: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Scores of the network on every image of `source`, at the images' own sizes.

    Each process predicts its part of the images on its own devices; the counts are added up.

    Args:
      predict: from `predictor`.
      variables: of the network, on all devices.
      source: the images.
      batch_size: images at once, of each process; raised to a multiple of its devices.
      drawings: folder for the first `DRAWN` comparisons, None for none.
      limit: take only the first images.
      labels: folder for all predictions as 8-bit PNGs in the data set's own numbers, None for none.
      between: called between two batches; what it raises ends the evaluation.

    Returns:
      Scores and what they were computed from.

    Raises:
      UserError: an image cannot be read, or the network's output for one is not finite.
    """
    mesh = devices.data_mesh(jax.local_devices())
    variables = devices.on_this_process(variables, mesh)
    batch_size = -(-batch_size // mesh.size) * mesh.size
    process, processes = jax.process_index(), jax.process_count()
    count = min(limit or len(source), len(source))
    confusion = np.zeros((len(source.classes), len(source.classes)), np.int64)
    names = result_names(source, count if labels is not None else min(count, DRAWN))
    started = time.perf_counter()
    with progress_bar(
        total=len(range(process, count, processes)), unit="image", leave=False, disable=process != 0
    ) as bar:
        for batch in pipeline.evaluation_batches(source, count, batch_size, process, processes):
            between()
            predicted = np.asarray(
                predict(variables, jax.device_put(batch["image"], devices.batch_sharding(mesh)))
            )
            if (undecided := (predicted == VOID).any((1, 2)) & (batch["index"] >= 0)).any():
                raise NotFinite(f"image {source.name(int(batch['index'][undecided.argmax()]))}")
            _write_batch(batch, predicted, source, names, drawings, labels)
            confusion += metrics.confusion_matrix(batch["label"], predicted, len(source.classes))
            bar.update(int((batch["index"] >= 0).sum()))
    seconds = time.perf_counter() - started
    if processes > 1:  # as int32 halves: JAX keeps no int64 unless told
        halves = multihost_utils.process_allgather(confusion.view(np.int32))
        confusion = np.ascontiguousarray(halves).view(np.int64).sum(0)
    return {
        **metrics.scores(confusion),
        "confusion": confusion.tolist(),
        "images": count,
        "images_per_second": count / seconds,
    }


def result_names(source: Any, count: int) -> list[str]:
    """The names, without suffix, of the files that an evaluation writes for the first `count` images.

    They are those of the images; two of one name get their number in the split behind it.
    """
    return outputs.distinct_names([[source.name(i)] for i in range(count)], (".png",))


def _write_batch(
    batch: dict[str, np.ndarray],
    predicted: UInt8[np.ndarray, "B H W"],
    source: Source,
    names: Sequence[str],
    drawings: pathlib.Path | None,
    labels: pathlib.Path | None,
) -> None:
    """Write label files of a batch's predictions, and comparisons of its first images.

    Images of index -1 fill the batch up and are not written.
    """
    for image, label, prediction, index in zip(
        batch["image"], batch["label"], predicted, batch["index"].tolist(), strict=True
    ):
        if labels is not None and index >= 0:
            figures.save_grey(labels / f"{names[index]}.png", source.numbers[prediction])
        if drawings is not None and 0 <= index < DRAWN:
            drawing = figures.comparison(image, label, prediction, source.classes, source.palette)
            figures.save_image(drawings / f"{names[index]}.png", drawing)
