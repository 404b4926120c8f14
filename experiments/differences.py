"""How large the differences from the PyTorch code bases are that remain in testing.

    python -m experiments.differences RUN [--cityscapes FOLDER]

RUN is a trained run of `streets`. FOLDER holds pairs NAME_labelIds.png and NAME_labelTrainIds.png of
Cityscapes; mmsegmentation's repository has one in tests/data/pseudo_cityscapes_dataset/gtFine. Without it,
what an earlier call found there is kept. Writes experiments/results/differences.json.
"""

import argparse
import json
import pathlib
from typing import Any

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32, UInt8

from ccnet_jax.common.errors import UserError
from ccnet_jax.config import command_line
from ccnet_jax.data.datasets.cityscapes import LABELS
from ccnet_jax.data.datasets.streets import Streets
from ccnet_jax.data.images import label_pixels
from ccnet_jax.evaluation.instance_scores import paste_mask
from ccnet_jax.evaluation.metrics import confusion_matrix, scores
from ccnet_jax.models.resize import resize_bilinear
from ccnet_jax.tasks.semantic_model import Model
from ccnet_jax.weights.inference import load
from experiments import markdown
from kernels.bench.measure import ROOT, result_head, write_result

PATH = ROOT / "experiments" / "results" / "differences.json"
RATIOS = (0.75, 1.25, 1.5)
SIDES = (24, 60, 160, 300)  # pixels of a mask's box
CELLS = 28  # of a mask
DISCS = 10  # of each size, at random places


def rounding(model: Model, ratio: float) -> dict[str, float]:
    """What rounding resized images to 8 bits changes, as mmcv's resizing by OpenCV does it.

    Returns:
      The fraction of pixels whose label changes, and the mIoU with and without rounding.
    """
    source, count = Streets("val"), len(model.classes)
    size = source[0]["label"].shape
    aligned = model.network.aligns_corners
    confusion = {"rounded": np.zeros((count, count), int), "float": np.zeros((count, count), int)}
    changed = total = 0

    @jax.jit
    def labels_of(images: jax.Array) -> jax.Array:
        return resize_bilinear(model(images), size, aligned).argmax(-1)

    for index in range(len(source)):
        image, label = source[index]["image"], source[index]["label"]
        sides = tuple(round(side * ratio) for side in size[::-1])
        resized = {
            "rounded": cv2.resize(image, sides).astype(np.float32),
            "float": cv2.resize(image.astype(np.float32), sides),
        }
        found = {name: np.asarray(labels_of(jnp.asarray(x[None])))[0] for name, x in resized.items()}
        for name, predicted in found.items():
            confusion[name] += confusion_matrix(label, predicted, count)
        changed += int((found["rounded"] != found["float"]).sum())
        total += label.size
    miou = {name: scores(counts)["mIoU"] for name, counts in confusion.items()}
    return {"ratio": ratio, "changed": changed / total, **miou}


def pasted_by_torchvision(
    mask: Float32[np.ndarray, "cells cells"], box: Float32[np.ndarray, " 4"], size: tuple[int, int]
) -> UInt8[np.ndarray, "H W"]:
    """torchvision's `paste_masks_in_image`: box and mask with a border of a cell, at whole pixels."""
    cells = len(mask)
    centre, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2 * (cells + 2) / cells
    x0, y0, x1, y1 = np.concatenate([centre - half, centre + half]).astype(int).tolist()
    shape = max(y1 - y0 + 1, 1), max(x1 - x0 + 1, 1)
    padded = jnp.asarray(np.pad(mask, 1))[None, :, :, None]
    enlarged = np.asarray(resize_bilinear(padded, shape, align_corners=False))[0, :, :, 0]
    result = np.zeros(size, np.uint8)
    rows, columns = slice(max(y0, 0), min(y1 + 1, size[0])), slice(max(x0, 0), min(x1 + 1, size[1]))
    inside = enlarged[rows.start - y0 : rows.stop - y0, columns.start - x0 : columns.stop - x0]
    result[rows, columns] = inside > 0.5
    return result


def pasting(side: int) -> dict[str, float]:
    """The intersection over union of discs pasted as here and as in torchvision: the mean and the lowest."""
    random = np.random.default_rng(side)
    rows, columns = np.mgrid[:CELLS, :CELLS] - (CELLS - 1) / 2
    disc = (1 / (1 + np.exp((np.hypot(rows, columns) - CELLS / 3) * 1.2))).astype(np.float32)
    overlaps = []
    for _ in range(DISCS):
        corner, sides = random.uniform(10, 100, 2), random.uniform(0.8, 1.2, 2) * side
        box = np.concatenate([corner, corner + sides]).astype(np.float32)
        ours, theirs = (paste(disc, box, (480, 480)) > 0 for paste in (paste_mask, pasted_by_torchvision))
        overlaps.append(np.divide((ours & theirs).sum(), (ours | theirs).sum()).item())
    return {"side": side, "mean": float(np.mean(overlaps)), "lowest": min(overlaps)}


def contradictions(folder: pathlib.Path) -> dict[str, Any]:
    """The fraction of pixels to which two label images of one image of Cityscapes give other classes.

    Raises UserError where the folder holds no pair.
    """
    differ = total = 0
    files = sorted(folder.rglob("*_labelIds.png"))
    for path in files:
        other = path.with_name(path.name.replace("_labelIds", "_labelTrainIds"))
        ids, trained = (label_pixels(file.read_bytes(), file) for file in (path, other))
        assert LABELS.label_ids is not None
        differ += int((LABELS.label_ids[ids] != trained).sum())
        total += ids.size
    if not total:
        raise UserError(f"{folder} holds no NAME_labelIds.png with its NAME_labelTrainIds.png; name another")
    return {"images": len(files), "differ": differ / total}


def tables(report: dict[str, Any]) -> dict[str, str]:
    """{"rounding", "pasting", "labels"}: Markdown."""
    rounded = [
        [
            f"{row['ratio']:g}",
            f"{100 * row['changed']:.3f}",
            f"{100 * row['rounded']:.2f}",
            f"{100 * row['float']:.2f}",
        ]
        for row in report["rounding"]
    ]
    discs = [[f"{row['side']}", f"{row['mean']:.3f}", f"{row['lowest']:.3f}"] for row in report["pasting"]]
    found = {
        "rounding": markdown.table(
            ["resized by", "pixels labelled otherwise, %", "mIoU, rounded", "mIoU, as here"], rounded
        ),
        "pasting": markdown.table(["side of the box in pixels", "mean IoU", "lowest IoU"], discs),
    }
    if labels := report["labels"]:
        row = [f"{labels['images']}", f"{100 * labels['differ']:.2f}"]
        found["labels"] = markdown.table(["label images", "pixels with two classes, %"], [row])
    return found


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="folder of a trained run of streets")
    parser.add_argument("--cityscapes", type=pathlib.Path, help="folder with label images of Cityscapes")
    arguments = parser.parse_args()
    model = load(arguments.run)
    labels = json.loads(PATH.read_text())["labels"] if PATH.is_file() else None
    if arguments.cityscapes is not None:
        labels = contradictions(arguments.cityscapes)
    report = result_head() | {
        "rounding": [rounding(model, ratio) for ratio in RATIOS],
        "pasting": [pasting(side) for side in SIDES],
        "labels": labels,
    }
    write_result(PATH, report)
    print("\n\n".join(tables(report).values()))


if __name__ == "__main__":
    command_line.run(main)
