"""Device memory of a training step of Mask R-CNN, as XLA plans it for an H200: no GPU needed.

    python -m experiments.instance_memory

Two images of 800x1344, every variant of configs/coco.py in float32 and bfloat16, beside what mmdetection's
model zoo reports. Writes experiments/results/instance_memory.json after every row; started again, it keeps
the rows of the same versions and sources. What compiling for a GPU needs is in `kernels.bench.aot`.
"""

import argparse
from typing import Any

from ccnet_jax.common.progress import progress_bar
from ccnet_jax.config import config_files
from ccnet_jax.config.config import parse
from ccnet_jax.config.config_files import ConfigName
from ccnet_jax.data.datasets.coco import COCO_CLASSES
from ccnet_jax.tools.costs import memory
from experiments import markdown
from kernels.bench import aot  # before JAX starts
from kernels.bench.measure import ROOT, result_head, resume_report, sources, write_result

PATH = ROOT / "experiments" / "results" / "instance_memory.json"
# What the rows depend on.
SOURCES = (
    *("kernels", "ccnet_jax/models", "ccnet_jax/training", "ccnet_jax/tasks", "configs/coco.py"),
    "experiments/instance_memory.py",
)
IMAGES, GPU = 2, "h200"
# mmdetection's model zoo, Mask R-CNN, GB a GPU with two images: (ResNet's depth, dtype).
PUBLISHED = {(50, "float32"): 4.4, (101, "float32"): 6.4, (50, "bfloat16"): 3.6}
DTYPES = ("float32", "bfloat16")


def measure(variant: str, dtype: str) -> dict[str, Any]:
    """The row of a variant of configs/coco.py."""
    config = parse(config_files.load(ConfigName.of(f"coco:{variant}")), {"dtype": dtype})
    plan = memory.plan_training(config, len(COCO_CLASSES), IMAGES, GPU)
    row = {"variant": variant, "depth": config.model.depth, "dtype": dtype}
    return row | {"peak_bytes": plan.peak_bytes, "temporary_bytes": plan.temporary_bytes}


def tables(report: dict[str, Any]) -> dict[str, str]:
    """{"training"}: Markdown, a line for each variant and dtype, in GB, and beside `none` of the same."""
    giga = [f"{row['peak_bytes'] / 1e9:.2f}" for row in report["rows"]]
    plain = {
        (row["depth"], row["dtype"]): planned
        for row, planned in zip(report["rows"], giga, strict=True)
        if row["variant"].endswith("none")
    }
    lines = []
    for row, planned in zip(report["rows"], giga, strict=True):
        key = row["depth"], row["dtype"]
        published = f"{PUBLISHED[key]:g}" if key in PUBLISHED and row["variant"].endswith("none") else "-"
        more = "-"
        if key in plain:
            more = f"{100 * (markdown.ratio(planned, plain[key]) - 1):+.1f} %"
        lines.append([f"`coco:{row['variant']}`", row["dtype"], planned, more, published])
    header = ["config", "dtype", "GB planned", "beside `none`", "GB, mmdetection"]
    return {"training": markdown.table(header, lines)}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.parse_args()
    if missing := aot.unavailable():
        parser.error(missing)
    variants = config_files.variants(config_files.folder() / "coco.py")
    cases = [(variant, dtype) for dtype in DTYPES for variant in variants]
    cases.sort(key=lambda case: case[0].startswith("r101"))  # the smaller network first
    report = result_head(aot.device_name(GPU)) | {"sources": sources(*SOURCES), "rows": []}
    report = resume_report(PATH, report, ("rows",))
    done = {(row["variant"], row["dtype"]) for row in report["rows"]}
    for case in progress_bar([case for case in cases if case not in done], unit="program"):
        report["rows"].append(measure(*case))
        write_result(PATH, report)
    print(tables(report)["training"])


if __name__ == "__main__":
    main()
