"""Device memory of testing a 1024x2048 image, as XLA plans it for an H200: no GPU needed.

    python -m experiments.testing_memory [--depth 101]

For 19 and for 150 classes, float32, batch 1: whole, in windows of 769x769 by 513, and at the largest of the
multi-scale ratios (1.75, whole, probabilities summed). Of every step of a prediction it adds up what lies in
memory: weights, image, sums, logits and the step's temporaries; the largest step counts. Prints GB, and
writes experiments/results/testing_memory.json after every row; started again, it keeps the rows of the same
versions and sources. What compiling for a GPU needs is in `kernels.bench.aot`.
"""

import argparse
from typing import Any

from ccnet_jax.common.progress import progress_bar
from ccnet_jax.evaluation.test_mode import TestMode
from ccnet_jax.models.ccnet import CCNet
from ccnet_jax.models.flavours import FLAVOURS
from ccnet_jax.tools.costs.memory import plan_testing
from experiments import markdown
from kernels.bench import aot
from kernels.bench.measure import ROOT, result_head, resume_report, sources, write_result

PATH = ROOT / "experiments" / "results" / "testing_memory.json"
# What the rows depend on.
SOURCES = (
    *("kernels", "ccnet_jax/models", "ccnet_jax/evaluation", "ccnet_jax/tools/costs"),
    "experiments/testing_memory.py",
)
IMAGE = (1024, 2048)
MODES = {
    "whole": TestMode(),
    "slide": TestMode(window=(769, 769), stride=(513, 513)),
    "multi-scale": TestMode().ms_flip(FLAVOURS["mmseg"]),
}


def tables(report: dict[str, Any]) -> dict[str, str]:
    """{"modes"}: Markdown, a line for each mode, the largest step's GB for each number of classes."""
    rows = report["rows"]
    counts = list(dict.fromkeys(row["classes"] for row in rows))
    lines = []
    for mode in dict.fromkeys(row["mode"] for row in rows):
        largest = {row["classes"]: max(row["steps"].values()) / 1e9 for row in rows if row["mode"] == mode}
        lines.append([mode, *(f"{largest[count]:.1f}" for count in counts)])
    return {"modes": markdown.table(["GB", *(f"{count} classes" for count in counts)], lines)}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--depth", type=int, default=101)
    arguments = parser.parse_args()
    if missing := aot.unavailable():
        parser.error(missing)
    report = result_head(aot.device_name("h200")) | {"sources": sources(*SOURCES), "depth": arguments.depth}
    report = resume_report(PATH, report | {"rows": []}, ("rows",))
    done = {(row["mode"], row["classes"]) for row in report["rows"]}
    cases = [(mode, classes) for mode in MODES for classes in (19, 150)]
    for mode, classes in progress_bar([case for case in cases if case not in done], unit="case"):
        model = CCNet(classes, arguments.depth, "mmseg")
        plan = plan_testing(model, IMAGE, MODES[mode], "h200")
        report["rows"].append({"mode": mode, "classes": classes, "steps": dict(plan.steps)})
        write_result(PATH, report)
    print(tables(report)["modes"])


if __name__ == "__main__":
    main()
