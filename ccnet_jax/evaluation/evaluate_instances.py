"""Scores of a network that finds instances, with images and COCO's result files."""

import json
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from ccnet_jax import figures
from ccnet_jax.common import devices
from ccnet_jax.common.errors import write_whole
from ccnet_jax.common.progress import progress_bar
from ccnet_jax.data.config import DataConfig
from ccnet_jax.data.instance_batches import evaluation_batches
from ccnet_jax.data.instances import InstanceSource
from ccnet_jax.evaluation.detector import Detect
from ccnet_jax.evaluation.evaluate import DRAWN, result_names
from ccnet_jax.evaluation.instance_scores import (
    Found,
    instance_scores,
    mask_of,
    paste_mask,
    result_list,
    runs_of,
)
from ccnet_jax.evaluation.prediction import NotFinite
from ccnet_jax.models.detection.mask_rcnn import Detections
from ccnet_jax.models.variables import Variables

DETECTIONS = "detections.json"


def evaluate_instances(
    detect: Detect,
    variables: Variables,
    source: InstanceSource,
    data: DataConfig,
    batch_size: int,
    drawings: pathlib.Path | None = None,
    limit: int | None = None,
    labels: pathlib.Path | None = None,
    between: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """COCO's scores of the network on every image of `source`.

    Each process looks at its part of the images on its own devices; each image counts once.

    Args:
      detect: from `detector`.
      variables: of the network, on all devices.
      source: the images.
      data: `config.data`: `resize`.
      batch_size: images at once, of each process; raised to a multiple of its devices.
      drawings: folder for the first comparisons, None for none.
      limit: take only the first images.
      labels: folder for all detections in COCO's format, `DETECTIONS`, None for none.
      between: called between two batches; what it raises ends the evaluation.

    Returns:
      `instance_scores`, and
      images: their number;
      images_per_second: of all hosts, with reading and compilation.

    Raises:
      UserError: an image cannot be read, or the network's output for one is not finite.
    """
    mesh = devices.data_mesh(jax.local_devices())
    variables = devices.on_this_process(variables, mesh)
    batch_size = -(-batch_size // mesh.size) * mesh.size
    process, processes = jax.process_index(), jax.process_count()
    count = min(limit or len(source), len(source))
    names = result_names(source, min(count, DRAWN))
    found: dict[int, Found] = {}
    started = time.perf_counter()
    with progress_bar(
        total=len(range(process, count, processes)), unit="image", leave=False, disable=process != 0
    ) as bar:
        for batch in evaluation_batches(source, data, count, batch_size, process, processes):
            between()
            images, size = (
                jax.device_put(batch[key], devices.batch_sharding(mesh)) for key in ("image", "size")
            )
            detections = jax.device_get(detect(variables, images, size))
            for row, index in enumerate(batch["index"].tolist()):
                if index >= 0:
                    of_image = Detections(*(x[row] for x in detections))
                    if not np.isfinite(of_image.scores).all():
                        raise NotFinite(f"image {source.name(index)}")
                    found[index] = in_image(of_image, batch["size"][row], source.size(index))
                    if drawings is not None and index < DRAWN:
                        drawing = comparison(source, index, found[index])
                        figures.save_image(drawings / f"{names[index]}.png", drawing)
            bar.update(int((batch["index"] >= 0).sum()))
    seconds = time.perf_counter() - started
    found = gather_detections(found)
    if labels is not None and process == 0:
        write_whole(labels / DETECTIONS, json.dumps(result_list(source, found)))
    scores = instance_scores(source, found)
    return {**scores, "images": count, "images_per_second": count / seconds}


def in_image(detections: Detections, seen: np.ndarray, size: tuple[int, int]) -> Found:
    """The detections of one image, in its own pixels.

    Args:
      detections: without the axis of a batch.
      seen: (height, width) at which the network saw the image.
      size: (height, width) of the image.
    """
    used = np.flatnonzero(detections.used)
    classes, scores = (np.asarray(x)[used] for x in (detections.classes, detections.scores))
    ratio = np.tile(np.array(size[::-1]) / seen[::-1], 2)
    boxes = (np.asarray(detections.boxes)[used] * ratio).astype(np.float32)
    masks = np.asarray(detections.masks)[used]
    runs = [runs_of(paste_mask(mask, box, size)) for mask, box in zip(masks, boxes, strict=True)]
    return {"boxes": boxes, "classes": classes, "scores": scores, "masks": runs}


def gather_detections(found: dict[int, Found]) -> dict[int, Found]:
    """The detections of all processes, in the order of their images."""
    if jax.process_count() == 1:
        return dict(sorted(found.items()))
    lists = {
        index: {
            "boxes": detections["boxes"].tolist(),
            "classes": detections["classes"].tolist(),
            "scores": detections["scores"].tolist(),
            "masks": detections["masks"],
        }
        for index, detections in found.items()
    }
    mine = np.frombuffer(json.dumps(lists).encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.array(len(mine)))
    texts = multihost_utils.process_allgather(np.pad(mine, (0, int(lengths.max()) - len(mine))))
    result: dict[int, Found] = {}
    for text, length in zip(texts, lengths, strict=True):
        for index, detections in json.loads(text[:length].tobytes()).items():
            result[int(index)] = {
                "boxes": np.array(detections["boxes"], np.float32).reshape(-1, 4),
                "classes": np.array(detections["classes"], np.int32),
                "scores": np.array(detections["scores"], np.float32),
                "masks": detections["masks"],
            }
    return dict(sorted(result.items()))


def comparison(source: InstanceSource, index: int, found: Found) -> np.ndarray:
    """The true objects and the detections of an image, side by side."""
    image, truth = source[index]["image"], source.objects(index)
    names = source.classes, source.palette
    masks = np.array([mask_of(runs) for runs in found["masks"]], np.uint8).reshape(-1, *image.shape[:2])
    true_masks = np.array(truth.masks, np.uint8).reshape(-1, *image.shape[:2])
    return figures.instance_comparison(
        {
            "truth": figures.instance_overlay(image, truth.boxes, truth.classes, true_masks, *names),
            "prediction": figures.instance_overlay(
                image, found["boxes"], found["classes"], masks, *names, scores=found["scores"]
            ),
        }
    )
