"""COCO's average precision of boxes and masks, by pycocotools."""

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np
from jaxtyping import Float32, Int32, UInt8
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ccnet_jax.data.instances import InstanceSource

KINDS = {"box": "bbox", "mask": "segm"}  # {ours: pycocotools'}
COCO_DETECTIONS = 100  # of a class in an image, that COCO's published numbers count
# {name: (index of the intersection over union, None for all; index of the size: all, small, medium, large)}
_SCORES = {
    **{"AP": (None, 0), "AP50": (0, 0), "AP75": (5, 0)},
    **{"APs": (None, 1), "APm": (None, 2), "APl": (None, 3)},
}


class Found(TypedDict):
    """The detections of one image, the best one first.

    Attributes:
      boxes: (x0, y0, x1, y1) in the image's pixels.
      classes: indices.
      scores: 0 to 1.
      masks: of each detection, as COCO's compressed runs.
    """

    boxes: Float32[np.ndarray, "n 4"]
    classes: Int32[np.ndarray, " n"]
    scores: Float32[np.ndarray, " n"]
    masks: list[dict[str, Any]]


def paste_mask(
    mask: Float32[np.ndarray, "cells cells"], box: Float32[np.ndarray, " 4"], size: tuple[int, int]
) -> UInt8[np.ndarray, "H W"]:
    """The pixels of an image of (height, width) whose centres have a probability of a half or more.

    Between the centres of the box's cells a probability is interpolated, and 0 is beyond its edges.
    """
    result = np.zeros(size, np.uint8)
    rows, row_weights = _axis_weights(box[1], box[3], size[0], len(mask))
    columns, column_weights = _axis_weights(box[0], box[2], size[1], len(mask))
    result[rows, columns] = row_weights @ mask @ column_weights.T >= 0.5
    return result


def _axis_weights(low: float, high: float, length: int, cells: int) -> tuple[slice, np.ndarray]:
    """Of one axis: the pixels inside a box, and the weights [pixels, cells] of its cells for each of them."""
    inside = slice(*(int(np.clip(edge, 0, length)) for edge in (np.floor(low), np.ceil(high))))
    pixels = np.arange(inside.start, inside.stop, dtype=np.float32) + 0.5
    places = (pixels - low) / max(high - low, 1e-3) * cells - 0.5
    return inside, np.maximum(1 - np.abs(places[:, None] - np.arange(cells)), 0).astype(np.float32)


def runs_of(mask: UInt8[np.ndarray, "H W"]) -> dict[str, Any]:
    """A mask as COCO's compressed runs, fit for JSON."""
    runs = coco_mask.encode(np.asfortranarray(mask))
    return {"size": list(runs["size"]), "counts": runs["counts"].decode()}


def mask_of(runs: dict[str, Any]) -> UInt8[np.ndarray, "H W"]:
    """The mask that COCO's compressed runs stand for."""
    return coco_mask.decode(runs)


def instance_scores(source: InstanceSource, found: Mapping[int, Found]) -> dict[str, Any]:
    """COCO's scores.

    All detections count. COCO's own numbers count the best `COCO_DETECTIONS` of a class in an image: they are
    the same as long as no image has more.

    Args:
      source: has the true objects.
      found: {image: its detections}; images that are not in it do not count.

    Returns:
      {"box": {...}, "mask": {...}}, each with "AP", the mean over classes and over intersections over union
      of 0.5 to 0.95, "AP50", "AP75", that of small, medium and large objects as "APs", "APm", "APl", and
      "classes", the AP of each class. Shares from 0 to 1; None where no object is there to be found.
    """
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints
        truth = COCO()
        truth.dataset = _truth(source, sorted(found))
        truth.createIndex()
        results = _results(found, {image: image for image in found}, range(len(source.classes)))
        most = max([COCO_DETECTIONS, *(len(detections["scores"]) for detections in found.values())])
        return {kind: _scores_of(truth, results, name, source.classes, most) for kind, name in KINDS.items()}


def table(result: Mapping[str, Any], classes: tuple[str, ...]) -> str:
    """`instance_scores` as text, in percent: the AP of boxes and masks of each class, then of all."""

    def percent(value: float | None) -> str:
        return "   -  " if value is None else f"{100 * value:6.2f}"

    wide = max(len(name) for name in (*classes, "class"))
    kinds = [result[kind] for kind in KINDS]
    rows = [f"{'class':{wide}}  box AP  mask AP", "-" * (wide + 17)]
    for name in classes:
        rows.append(f"{name:{wide}}  " + "   ".join(percent(scores["classes"][name]) for scores in kinds))
    rows.append("-" * (wide + 17))
    for name in _SCORES:
        rows.append(f"{name:{wide}}  " + "   ".join(percent(scores[name]) for scores in kinds))
    return "\n".join(rows)


def _truth(source: InstanceSource, images: Sequence[int]) -> dict[str, list[dict[str, Any]]]:
    """The true objects, as a COCO file has them; numbers of images and classes are indices."""
    annotations: list[dict[str, Any]] = []
    for image in images:
        objects = source.objects(image)
        for box, label, mask, crowd, area in zip(
            objects.boxes.tolist(), objects.classes, objects.masks, objects.crowd, objects.areas, strict=True
        ):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": int(label),
                    "bbox": _corner_and_sides(box),
                    "area": float(area),
                    "iscrowd": int(crowd),
                    "segmentation": runs_of(mask),
                }
            )
    return {
        "images": [
            {"id": image, "height": source.size(image)[0], "width": source.size(image)[1]} for image in images
        ],
        "categories": [{"id": i, "name": name} for i, name in enumerate(source.classes)],
        "annotations": annotations,
    }


def result_list(source: InstanceSource, found: Mapping[int, Found]) -> list[dict[str, Any]]:
    """All detections as COCO's result files have them, with the data set's own numbers."""
    images = {image: source.image_id(image) for image in found}
    return _results(found, images, source.class_ids)


def _results(
    found: Mapping[int, Found], images: Mapping[int, int], classes: Sequence[int]
) -> list[dict[str, Any]]:
    """All detections, with these numbers for images and classes."""
    return [
        {
            "image_id": images[image],
            "category_id": int(classes[label]),
            "bbox": _corner_and_sides(box),
            "score": float(score),
            "segmentation": mask,
        }
        for image, detections in found.items()
        for box, label, score, mask in zip(
            detections["boxes"].tolist(),
            detections["classes"],
            detections["scores"],
            detections["masks"],
            strict=True,
        )
    ]


def _scores_of(
    truth: COCO, results: list[dict[str, Any]], kind: str, classes: Sequence[str], most: int
) -> dict[str, Any]:
    """The scores of one of pycocotools' kinds.

    They are its own numbers, without its `summarize`, which gives the AP of 100 detections and no other.
    """
    if results:
        evaluation = COCOeval(truth, truth.loadRes([dict(result) for result in results]), kind)
    else:  # pycocotools cannot load an empty list
        nothing = COCO()
        nothing.dataset = truth.dataset | {"annotations": []}
        nothing.createIndex()
        evaluation = COCOeval(truth, nothing, kind)
    evaluation.params.maxDets = [most]
    evaluation.evaluate()
    evaluation.accumulate()
    precision = evaluation.eval["precision"][..., 0]  # [overlaps, recalls, classes, sizes]
    scores: dict[str, Any] = {
        name: _mean(precision[slice(None) if overlap is None else overlap, ..., size])
        for name, (overlap, size) in _SCORES.items()
    }
    scores["classes"] = {name: _mean(precision[:, :, i, 0]) for i, name in enumerate(classes)}
    return scores


def _mean(precision: np.ndarray) -> float | None:
    """The mean where there is something to find, which pycocotools marks by -1 where there is not."""
    known = precision[precision > -1]
    return float(known.mean()) if known.size else None


def _corner_and_sides(box: Sequence[float]) -> list[float]:
    x0, y0, x1, y1 = box
    return [x0, y0, x1 - x0, y1 - y0]
