"""Which context modules inside Mask R-CNN name a vehicle that only a far signal names (Table 7, small).

    python -m experiments.streets_instances [--runs runs/streets_instances] [--seeds 3]

Trains configs/streets_instances.py without a context module, with the non-local block and with RCCA, with
every seed, scores the last checkpoint on the validation scenes, and writes
experiments/results/streets_instances.json and two figures. A network that is trained and scored is not
trained again: an interrupted experiment goes on, and a larger --seeds adds to what is there.
"""

import argparse
import pathlib
import shutil
import statistics
from typing import Any

from ccnet_jax.data.datasets.streets_instances import CONTEXT_CLASSES
from ccnet_jax.engine.folder import RunFolder
from experiments import markdown, runs
from experiments.streets_context import mean_and_spread, with_commits
from kernels.bench.measure import ROOT, result_head, write_result

RESULTS = ROOT / "experiments" / "results"
VARIANTS = {"none": "none", "non-local block": "nonlocal", "RCCA, 2 loops": "rcca"}  # {name: of the config}
DRAWN = ("none", "rcca")
SPLIT = "val"
KINDS = ("box", "mask")


def run_of(cell: runs.Cell, folder: pathlib.Path) -> RunFolder:
    """The folder of a network's run."""
    name, seed = cell
    return RunFolder(folder / f"{VARIANTS[name]}-{seed}")


def is_finished(run: RunFolder) -> bool:
    """Whether a network is trained and scored."""
    return run.config_file.is_file() and runs.is_scored(run, SPLIT)


def measure(cell: runs.Cell, run: RunFolder) -> dict[str, Any]:
    """A network's row: trained and evaluated, as far as it is not yet; scores are fractions."""
    name, seed = cell
    if not is_finished(run):
        runs.train(run, f"streets_instances:{VARIANTS[name]}", {"seed": seed})
    found = runs.scores(run, SPLIT)
    row = {"context": name, "seed": seed, "commit": runs.trained_by(run)}
    return row | {kind: found[kind] for kind in KINDS}


def tables(report: dict[str, Any]) -> dict[str, str]:
    """{"scores", "classes"}: Markdown, percent, the mean over the seeds and its spread."""
    modules: dict[str, list[dict]] = {}
    for row in report["rows"]:
        modules.setdefault(row["context"], []).append(row)
    names = {name: with_commits(name, rows, report["commit"]) for name, rows in modules.items()}
    spread = "*± is the standard deviation over the seeds.*"
    header = ["context module", "seeds", "box AP", "mask AP", "box AP50", "mask AP50", "mask AP, vehicles"]
    scores = [
        [
            names[name],
            str(len(rows)),
            *(
                mean_and_spread(row[kind][score] for row in rows)
                for score in ("AP", "AP50")
                for kind in KINDS
            ),
            mean_and_spread(context_ap(row) for row in rows),
        ]
        for name, rows in modules.items()
    ]
    classes = [
        [
            label,
            *(mean_and_spread(row["mask"]["classes"][label] for row in rows) for rows in modules.values()),
        ]
        for label in report["rows"][0]["mask"]["classes"]
    ]
    return {
        "scores": f"{markdown.table(header, scores)}\n\n{spread}",
        "classes": f"{markdown.table(['mask AP', *names.values()], classes)}\n\n{spread}",
    }


def context_ap(row: dict[str, Any]) -> float:
    """The mean AP of the masks of the classes that need context."""
    return statistics.mean(row["mask"]["classes"][name] for name in CONTEXT_CLASSES)


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=pathlib.Path, default=ROOT / "runs" / "streets_instances")
    parser.add_argument("--seeds", type=int, default=3, help="networks of each context module")
    arguments = parser.parse_args()

    folder = arguments.runs.expanduser().resolve()
    cells = [(name, seed) for name in VARIANTS for seed in range(arguments.seeds)]
    rows = runs.measured_rows(cells, lambda cell: run_of(cell, folder), is_finished, measure)
    for name, variant in VARIANTS.items():
        if variant in DRAWN:
            drawn = run_of((name, 0), folder).images(SPLIT) / "val-00003.png"
            shutil.copy(drawn, RESULTS / f"streets_instances_{variant}.png")
    head = result_head()  # not earlier: JAX here would take the memory of a GPU that the runs need
    report = {**head, "rows": rows}
    write_result(RESULTS / "streets_instances.json", report)
    print(tables(report)["scores"])


if __name__ == "__main__":
    main()
