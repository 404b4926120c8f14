"""Segmentation scores from a confusion matrix."""

from collections.abc import Mapping
from typing import Any, TypedDict

import numpy as np
from jaxtyping import Float, Int64, Integer

from ccnet_jax.common.labels import VOID


class Scores(TypedDict):
    """The scores that papers report, as fractions.

    The IoU of a class is NaN where no pixel is labelled or predicted so; its accuracy, where none is
    labelled so. A mean over nothing is NaN, which `without_nan` makes None and `table` "-".

    Attributes:
      mIoU, mAcc: means of `IoU` and `accuracy` over the classes that are not NaN.
      pixel_accuracy: the fraction of labelled pixels that are predicted right; NaN where none is labelled.
      IoU, accuracy: of each class.
    """

    mIoU: float
    mAcc: float
    pixel_accuracy: float
    IoU: list[float]
    accuracy: list[float]


def confusion_matrix(
    labels: Integer[np.ndarray, "*pixels"], predictions: Integer[np.ndarray, "*pixels"], num_classes: int
) -> Int64[np.ndarray, "K K"]:
    """How many pixels have each true and each predicted class; pixels labelled 255 (void) are left out.

    Args:
      labels, predictions: integer arrays of one shape, for example [B, H, W].
      num_classes: K.

    Returns:
      int64 [true class, predicted class].
    """
    valid = labels != VOID
    cell = labels[valid].astype(np.int64) * num_classes + predictions[valid]
    return np.bincount(cell, minlength=num_classes**2).reshape(num_classes, num_classes)


def scores(confusion: Integer[np.ndarray, "K K"]) -> Scores:
    """The scores of a confusion matrix of counts [true class, predicted class]."""
    hit, true, predicted = np.diag(confusion), confusion.sum(1), confusion.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        iou = hit / (true + predicted - hit)
        accuracy = hit / true
        pixel_accuracy = np.divide(hit.sum(), true.sum())
    return {
        "mIoU": _mean(iou),
        "mAcc": _mean(accuracy),
        "pixel_accuracy": float(pixel_accuracy),
        "IoU": iou.tolist(),
        "accuracy": accuracy.tolist(),
    }


def _mean(values: Float[np.ndarray, " K"]) -> float:
    """The mean of the values that are not NaN; NaN where there is none."""
    occurring = values[~np.isnan(values)]
    return float(occurring.mean()) if occurring.size else float("nan")


def table(result: Mapping[str, Any], classes: tuple[str, ...]) -> str:
    """`scores` as text, in percent: a row for each class, then mIoU, mAcc and pixel accuracy."""

    def percent(value: float) -> str:
        return "   -  " if np.isnan(value) else f"{100 * value:6.2f}"

    wide = max(len(name) for name in (*classes, "pixel accuracy"))
    rows = [f"{'class':{wide}}     IoU     Acc", "-" * (wide + 16)]
    for name, iou, accuracy in zip(classes, result["IoU"], result["accuracy"], strict=True):
        rows.append(f"{name:{wide}}  {percent(iou)}  {percent(accuracy)}")
    rows.append("-" * (wide + 16))
    rows.append(f"{'mIoU':{wide}}  {percent(result['mIoU'])}")
    rows.append(f"{'mAcc':{wide}}          {percent(result['mAcc'])}")
    rows.append(f"{'pixel accuracy':{wide}}          {percent(result['pixel_accuracy'])}")
    return "\n".join(rows)


def without_nan(value: Any) -> Any:
    """The same nested lists and dictionaries with None in place of NaN, which JSON does not have."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and np.isnan(value) else value
