"""RCCA against no context module on real images: CamVid, a small network from random weights, on a CPU.

    python -m experiments.camvid --camvid DIR [--runs runs/camvid]

Trains `--config camvid:small` twice, without a context module and with RCCA of two loops, with everything
else the same. Evaluates the last checkpoints on the test split, at one scale and with multi-scale + flip, and
writes experiments/results/camvid.json. DIR is described in ccnet_jax/data/datasets/camvid.py. An interrupted
experiment goes on where it was; what is done is not repeated.

Two figures are drawn, of three test images and of pixels that a rule chooses (`chosen_images`,
`chosen_pixel`):

    loops       the paper's Figure 5: predictions with 0, 1 and 2 loops. 0 is the network without a context
                module, 2 the network with RCCA, and 1 the same weights applied once.
    attention   the paper's Figure 6: what a pixel attends to after one loop and after two.

RUNS/figures has camvid_loops.png and camvid_attention.png with CamVid's photographs. Those are not ours to
distribute: the files of the same names in experiments/results show predictions in their place.
"""

import argparse
import dataclasses
import pathlib
from typing import Any

import numpy as np

from ccnet_jax import figures
from ccnet_jax.common.labels import VOID
from ccnet_jax.common.progress import progress_bar
from ccnet_jax.config import command_line, records
from ccnet_jax.data.sources import Source
from ccnet_jax.engine.folder import RunFolder
from ccnet_jax.tasks import run_data
from ccnet_jax.tasks.semantic_model import Model
from ccnet_jax.weights import inference
from experiments import markdown, runs
from kernels.bench.measure import ROOT, result_head, write_result

RESULTS = ROOT / "experiments" / "results"
CONFIG, SPLIT = "camvid:small", "test"
BASELINE, RCCA = "none", "RCCA, 2 loops"
NETWORKS: dict[str, dict[str, str | int]] = {
    BASELINE: {"model.context": "none"},
    RCCA: {"model.context": "rcca", "model.loops": 2},
}
FOLDERS = {BASELINE: "none", RCCA: "rcca"}
MODES = {"single": False, "ms_flip": True}  # {mode: whether several scales and mirror images are averaged}
IMAGES = 3  # in a figure


# --- Scores ---


def measure(name: str, run: RunFolder, data: pathlib.Path) -> dict[str, Any]:
    """A network's row: trained and evaluated, as far as it is not yet; scores are fractions."""
    done = run.config_file.is_file() and runs.is_scored(run, SPLIT)
    if not done:
        runs.train(run, CONFIG, {"data.dir": data, **NETWORKS[name]})
    row: dict[str, Any] = {"context": name, "commit": runs.trained_by(run), "hours": runs.training_hours(run)}
    for mode, flip in MODES.items():
        found = runs.scores(run, SPLIT, flip)
        row[mode] = {key: found[key] for key in ("mIoU", "mAcc", "pixel_accuracy")}
        row[mode]["IoU"] = dict(zip(found["classes"], found["IoU"], strict=True))
    return row


def tables(report: dict[str, Any]) -> dict[str, str]:
    """{"scores", "classes"}: Markdown, in percent."""
    rows = report["rows"]
    names = [markdown.measured_at(row["context"], row["commit"], report["commit"]) for row in rows]
    header = ["context module", "mIoU", "mIoU, ms + flip", "pixel accuracy"]
    lines = []
    for name, row in zip(names, rows, strict=True):
        fractions = row["single"]["mIoU"], row["ms_flip"]["mIoU"], row["single"]["pixel_accuracy"]
        lines.append([name, *map(markdown.percent, fractions)])
    classes = [
        [label, *(markdown.percent(row[mode]["IoU"][label]) for mode in MODES for row in rows)]
        for label in rows[0]["single"]["IoU"]
    ]
    wide = ["IoU", *names, *(f"{name}, ms + flip" for name in names)]
    return {
        "scores": f"{markdown.table(header, lines)}\n\n{verdict(rows)}",
        "classes": markdown.table(wide, classes),
    }


def verdict(rows: list[dict]) -> str:
    """A message that says by how much RCCA is above or below the network without a context module."""
    by_name = {row["context"]: row for row in rows}
    parts = []
    for mode, words in (("single", "at one scale"), ("ms_flip", "with several scales and mirror images")):
        gain = markdown.difference(*(markdown.percent(by_name[x][mode]["mIoU"]) for x in (RCCA, BASELINE)))
        parts.append(f"{abs(gain)} points {'above' if gain >= 0 else 'below'} ({words})")
    return f"With RCCA the mIoU is {' and '.join(parts)} that of the network without; one run each."


# --- Figures ---


@dataclasses.dataclass(frozen=True)
class Scene:
    """What the figures show of one image.

    Attributes:
      name: of the image.
      image: uint8 [H, W, 3] RGB.
      point: (row, column) of the pixel whose attention is shown.
      predictions: {title: class ids [H, W]}, for 0, 1 and 2 loops.
      maps: float32 [loops, h, w], what the point attends to.
    """

    name: str
    image: np.ndarray
    point: tuple[int, int]
    predictions: dict[str, np.ndarray]
    maps: np.ndarray


def chosen_images(count: int) -> list[int]:
    """The middles of `IMAGES` equal parts of a split of `count` images, sorted by name."""
    return [(2 * part + 1) * count // (2 * IMAGES) for part in range(IMAGES)]


def chosen_pixel(label: np.ndarray, pixels: np.ndarray) -> tuple[int, int]:
    """(row, column) of a pixel: of the image's class that is rarest in the split, nearest to the centre.

    Args:
      label: class ids [H, W]; 255 is void, which is not chosen.
      pixels: [classes], the number of each class's pixels in the split.
    """
    there = np.unique(label[label != VOID])
    rows, columns = np.nonzero(label == there[np.argmin(pixels[there])])
    centre = (label.shape[0] - 1) / 2, (label.shape[1] - 1) / 2
    nearest = np.argmin((rows - centre[0]) ** 2 + (columns - centre[1]) ** 2)
    return int(rows[nearest]), int(columns[nearest])


def scene(baseline: Model, rcca: Model, source: Source, index: int, pixels: np.ndarray) -> Scene:
    """A test image with its predictions and the attention of its pixel."""
    sample = source[index]
    point = chosen_pixel(sample["label"], pixels)
    once = rcca.replace(network=rcca.network.clone(loops=1))
    titles = {"0 loops (no context module)": baseline, "1 loop": once, "2 loops": rcca}
    return Scene(
        source.name(index),
        sample["image"],
        point,
        {title: model.predict(sample["image"]).label for title, model in titles.items()},
        inference.attention_map(rcca, sample["image"], point),
    )


def draw(scenes: list[Scene], model: Model, stem: pathlib.Path, photos: bool) -> None:
    """Write both figures, with the images themselves, or with predictions in their place.

    Args:
      scenes: one below the other.
      model: has the names and colours of the classes.
      stem: what the paths of the files begin with: STEMloops.png, STEMattention.png.
      photos: whether the images themselves are shown.
    """
    of_loops, of_attention = [], []
    for shown in scenes:
        drawn = {x: figures.colourize(label, model.palette) for x, label in shown.predictions.items()}
        used = np.unique(np.stack(list(shown.predictions.values())))
        row = figures.side_by_side({"image": shown.image, **drawn} if photos else drawn)
        of_loops += [row, figures.legend(model.classes, model.palette, row.shape[1], used)]
        ground = shown.image if photos else drawn["2 loops"]
        of_attention.append(figures.attention_figure(ground, shown.maps, shown.point))
    figures.save_image(stem.with_name(f"{stem.name}loops.png"), np.concatenate(of_loops))
    figures.save_image(stem.with_name(f"{stem.name}attention.png"), np.concatenate(of_attention))


# --- The program ---


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--camvid", type=pathlib.Path, required=True, help="folder of the data set")
    parser.add_argument("--runs", type=pathlib.Path, default=ROOT / "runs" / "camvid")
    arguments = parser.parse_args()

    data, folder = (path.expanduser().resolve() for path in (arguments.camvid, arguments.runs))
    work = {name: RunFolder(folder / FOLDERS[name]) for name in NETWORKS}
    rows = [measure(name, work[name], data) for name in progress_bar(NETWORKS, unit="network")]

    baseline, rcca = (inference.load(work[name].path) for name in (BASELINE, RCCA))
    run = work[RCCA]
    source = run_data.open_images(records.load_config(run), SPLIT, records.load_classes(run), run)
    pixels = np.sum(runs.scores(work[RCCA], SPLIT)["confusion"], 1)
    scenes = [scene(baseline, rcca, source, i, pixels) for i in chosen_images(len(source))]
    draw(scenes, rcca, RESULTS / "camvid_", photos=False)
    draw(scenes, rcca, folder / "figures" / "camvid_", photos=True)

    shown = [{"image": x.name, "row": x.point[0], "column": x.point[1]} for x in scenes]
    report = {**result_head(), "config": CONFIG, "split": SPLIT, "rows": rows, "figures": shown}
    write_result(RESULTS / "camvid.json", report)
    print("\n\n".join(tables(report).values()))
    print(f"figures with CamVid's photographs are in {folder / 'figures'}")


if __name__ == "__main__":
    command_line.run(main)
