"""Which context modules can name what only a far signal tells: the built-in `streets` scenes.

    python -m experiments.streets_context [--runs runs/streets_context] [--seeds 3]

Trains configs/demo.py with each context module (the paper's Table 4, in small) and each seed, evaluates the
last checkpoint on the validation scenes, at one scale and with multi-scale + flip, and writes
experiments/results/streets_context.json and three figures. A network that is trained and scored is not
trained again: an interrupted experiment goes on, and a larger --seeds adds to what is there.
"""

import argparse
import pathlib
import shutil
import statistics
from collections.abc import Iterable
from typing import Any

from ccnet_jax import figures
from ccnet_jax.data.datasets.streets import CONTEXT_CLASSES, Streets
from ccnet_jax.engine.folder import RunFolder
from ccnet_jax.weights import inference
from experiments import markdown, runs
from kernels.bench.measure import ROOT, result_head, write_result

RESULTS = ROOT / "experiments" / "results"
VARIANTS: dict[str, dict[str, str | int]] = {
    "none": {"model.context": "none"},
    "RCCA, 1 loop": {"model.context": "rcca", "model.loops": 1},
    "RCCA, 2 loops": {"model.context": "rcca", "model.loops": 2},
    "PSP": {"model.context": "psp"},
    "ASPP": {"model.context": "aspp"},
    "Non-local": {"model.context": "nonlocal"},
}
DRAWN = {"none": "none", "RCCA, 2 loops": "rcca"}  # the manual shows predictions of these, and
POINT = (70, 160)  # what this pixel, of a vehicle in the first validation scene, attends to in the second
SPLIT = "val"
MODES = {"single": False, "ms_flip": True}  # {mode: whether several scales and mirror images are averaged}


def run_of(cell: runs.Cell, folder: pathlib.Path) -> RunFolder:
    """The folder of a network's run."""
    name, seed = cell
    return RunFolder(folder / f"{name.replace(' ', '').replace(',', '-')}-{seed}")


def is_finished(run: RunFolder) -> bool:
    """Whether a network is trained and scored in both modes."""
    return run.config_file.is_file() and all(runs.is_scored(run, SPLIT, flip) for flip in MODES.values())


def measure(cell: runs.Cell, run: RunFolder) -> dict[str, Any]:
    """A network's row: trained and evaluated, as far as it is not yet; scores are fractions."""
    name, seed = cell
    if not is_finished(run):
        runs.train(run, "demo", {"seed": seed, **VARIANTS[name]})
    row: dict[str, Any] = {"context": name, "seed": seed, "commit": runs.trained_by(run)}
    for mode, flip in MODES.items():
        found = runs.scores(run, SPLIT, flip)
        row[mode] = {"mIoU": found["mIoU"], "IoU": dict(zip(found["classes"], found["IoU"], strict=True))}
    return row


def tables(report: dict[str, Any]) -> dict[str, str]:
    """{"scores", "classes"}: Markdown, percent, the mean over the seeds and its spread."""
    modules: dict[str, list[dict]] = {}
    for row in report["rows"]:
        modules.setdefault(row["context"], []).append(row)
    names = {name: with_commits(name, rows, report["commit"]) for name, rows in modules.items()}
    spread = "*± is the standard deviation over the seeds.*"
    header = ["context module", "seeds", "mIoU", "context classes", "mIoU, ms + flip"]
    header += ["context classes, ms + flip"]
    scores = [
        [
            names[name],
            str(len(rows)),
            *(
                mean_and_spread(score(row[mode]) for row in rows)
                for mode in MODES
                for score in (lambda x: x["mIoU"], context_iou)
            ),
        ]
        for name, rows in modules.items()
    ]
    classes = [
        [label, *(mean_and_spread(row["single"]["IoU"][label] for row in rows) for rows in modules.values())]
        for label in report["rows"][0]["single"]["IoU"]
    ]
    return {
        "scores": f"{markdown.table(header, scores)}\n\n{spread}",
        "classes": f"{markdown.table(['IoU', *names.values()], classes)}\n\n{spread}",
    }


def context_iou(scores: dict[str, Any]) -> float:
    """The mean IoU of the classes that need context."""
    return statistics.mean(scores["IoU"][name] for name in CONTEXT_CLASSES)


def mean_and_spread(fractions: Iterable[float]) -> str:
    """The mean in percent and, of several values, their standard deviation, as "85.6 ± 0.4"."""
    values = list(fractions)
    mean = markdown.percent(statistics.mean(values))
    return mean if len(values) == 1 else f"{mean} ± {markdown.percent(statistics.stdev(values))}"


def with_commits(name: str, rows: list[dict], newest: str) -> str:
    """A context module's name, with the commits of its networks that are not the newest."""
    for commit in dict.fromkeys(row["commit"] for row in rows):
        name = markdown.measured_at(name, commit, newest)
    return name


def draw(folder: pathlib.Path) -> None:
    """Write the manual's figures, of the networks of the first seed."""
    for name, file in DRAWN.items():
        drawn = run_of((name, 0), folder).images(SPLIT) / "val-00003.png"
        shutil.copy(drawn, RESULTS / f"streets_{file}.png")
    model = inference.load(run_of(("RCCA, 2 loops", 0), folder).path)
    image = Streets(SPLIT)[0]["image"]
    maps = inference.attention_map(model, image, POINT)
    figures.save_image(RESULTS / "streets_attention.png", figures.attention_figure(image, maps, POINT))


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=pathlib.Path, default=ROOT / "runs" / "streets_context")
    parser.add_argument("--seeds", type=int, default=3, help="networks of each context module")
    arguments = parser.parse_args()

    folder = arguments.runs.expanduser().resolve()
    cells = [(name, seed) for name in VARIANTS for seed in range(arguments.seeds)]
    rows = runs.measured_rows(cells, lambda cell: run_of(cell, folder), is_finished, measure)
    draw(folder)
    head = result_head()  # not earlier: JAX here would take the memory of a GPU that the runs need
    report = {**head, "rows": rows}
    write_result(RESULTS / "streets_context.json", report)
    print(tables(report)["scores"])


if __name__ == "__main__":
    main()
