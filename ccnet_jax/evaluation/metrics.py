"""Segmentation scores from a confusion matrix."""

from typing import Any

import numpy as np

from ccnet_jax.labels import VOID


def confusion_matrix(labels: np.ndarray, predictions: np.ndarray, num_classes: int) -> np.ndarray:
    """Counts [true class, predicted class] in int64, of the pixels whose label is not 255.

    Args:
      labels, predictions: integer, of one shape.
    """
    valid = labels != VOID
    cell = labels[valid].astype(np.int64) * num_classes + predictions[valid]
    return np.bincount(cell, minlength=num_classes**2).reshape(num_classes, num_classes)


def scores(confusion: np.ndarray) -> dict[str, float | list[float]]:
    """What papers report, as fractions.

    Args:
      confusion: [true class, predicted class] counts.

    Returns:
      mIoU and mAcc (means over the classes that occur: IoU where the class is true or predicted
      anywhere, accuracy where it is true anywhere), pixel_accuracy, and IoU and accuracy of each
      class, NaN where it does not occur.
    """
    confusion = np.asarray(confusion, np.int64)
    hit, true, predicted = np.diag(confusion), confusion.sum(1), confusion.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        iou = hit / (true + predicted - hit)
        accuracy = hit / true
    return {
        "mIoU": _mean(iou),
        "mAcc": _mean(accuracy),
        "pixel_accuracy": float(hit.sum() / max(true.sum(), 1)),
        "IoU": iou.tolist(),
        "accuracy": accuracy.tolist(),
    }


def _mean(values: np.ndarray) -> float:
    """The mean of the values that are not NaN; NaN where there is none."""
    occurring = values[~np.isnan(values)]
    return float(occurring.mean()) if occurring.size else float("nan")


def table(result: dict[str, float | list[float]], classes: tuple[str, ...]) -> str:
    """`scores` as text: a row a class, then mIoU, mAcc and pixel accuracy, in percent."""

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
    """The same nested lists and dictionaries with None for NaN, which JSON has no word for."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and np.isnan(value) else value
