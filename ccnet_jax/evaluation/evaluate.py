"""Scores of a network on a split, with pictures and label files."""

import pathlib
import time
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from ccnet_jax import devices, figures
from ccnet_jax.data import pipeline
from ccnet_jax.data.sources import Source
from ccnet_jax.evaluation import metrics
from ccnet_jax.evaluation.prediction import Predict
from ccnet_jax.progress import progress_bar

DRAWN = 8  # pictures an evaluation draws


def evaluate(
    predict: Predict,
    variables: Any,
    source: Source,
    batch_size: int,
    pictures: pathlib.Path | None = None,
    limit: int | None = None,
    labels: pathlib.Path | None = None,
) -> dict[str, Any]:
    """Scores of the network on every picture of `source`, at the pictures' own sizes.

    Each process predicts its share of the pictures on its own devices; the counts are added up.

    Args:
      predict: from `predictor`.
      variables: of the network, on all devices.
      source: the pictures.
      batch_size: pictures at once, of each process; raised to a multiple of its devices.
      pictures: folder for the first `DRAWN` comparisons, None for none.
      limit: take only the first pictures.
      labels: folder for all predictions as 8-bit PNGs in the data set's own numbers, None for none.

    Returns:
      `metrics.scores`, the "confusion" matrix behind them, "pictures" (their number) and "images_per_second".
    """
    mesh = devices.data_mesh(jax.local_devices())
    variables = devices.on_this_process(variables, mesh)
    batch_size = -(-batch_size // mesh.size) * mesh.size
    process, processes = jax.process_index(), jax.process_count()
    count = min(limit or len(source), len(source))
    confusion = np.zeros((len(source.classes), len(source.classes)), np.int64)
    started = time.perf_counter()
    with progress_bar(
        total=len(range(process, count, processes)), unit="image", leave=False, disable=process != 0
    ) as bar:
        for batch in pipeline.evaluation_batches(source, count, batch_size, process, processes):
            predicted = np.asarray(
                predict(variables, jax.device_put(batch["image"], devices.batch_sharding(mesh)))
            )
            confusion += metrics.confusion_matrix(batch["label"], predicted, len(source.classes))
            for i, index in enumerate(batch["index"]):
                if labels is not None and index >= 0:
                    figures.save_grey(labels / f"{source.name(index)}.png", source.numbers[predicted[i]])
                if pictures is not None and 0 <= index < DRAWN:
                    drawing = figures.comparison(
                        batch["image"][i], batch["label"][i], predicted[i], source.classes, source.palette
                    )
                    figures.save_picture(pictures / f"{source.name(index)}.png", drawing)
            bar.update(int((batch["index"] >= 0).sum()))
    seconds = time.perf_counter() - started
    if processes > 1:  # as int32 halves: JAX keeps no int64 unless told
        halves = multihost_utils.process_allgather(confusion.view(np.int32))
        confusion = np.ascontiguousarray(halves).view(np.int64).sum(0)
    return {
        **metrics.scores(confusion),
        "confusion": confusion.tolist(),
        "pictures": count,
        "images_per_second": count / seconds,
    }
