"""Which context modules can name what only a far signal tells: the built-in `streets` scenes.

    python -m experiments.streets_context [--runs runs/streets_context] [--seeds 1]

Trains configs/demo.py with each context module (the paper's Table 4, in small), evaluates the last
checkpoint on the validation scenes, at one scale and with multi-scale + flip, and writes
experiments/results/streets_context.{json,md} and two pictures: mIoU, and the mean IoU of the four
context classes. A run that is finished is not trained again: an interrupted
experiment goes on.
"""

import argparse
import json
import pathlib
import shutil
import subprocess
import sys

from ccnet_jax.data.datasets.streets import CONTEXT_CLASSES
from ccnet_jax.run.folder import RunFolder
from kernels.measure import ROOT, commit, result_head, write_result
from kernels.whole_file import write_whole

RESULTS = ROOT / "experiments" / "results"
VARIANTS: dict[str, dict[str, str | int]] = {
    "none": {"context": "none"},
    "RCCA, 1 loop": {"context": "rcca", "loops": 1},
    "RCCA, 2 loops": {"context": "rcca", "loops": 2},
    "PSP": {"context": "psp"},
    "ASPP": {"context": "aspp"},
    "Non-local": {"context": "nonlocal"},
}
PICTURED = {"none": "none", "RCCA, 2 loops": "rcca"}  # the README shows these


def program(name: str, *arguments: str) -> None:
    """Run `python -m ccnet_jax.NAME`, as a user would."""
    subprocess.run([sys.executable, "-m", f"ccnet_jax.{name}", *arguments], cwd=ROOT, check=True)


def measure(variant: dict[str, str | int], seed: int, workdir: pathlib.Path) -> dict[str, float | str]:
    """Train and evaluate one network; scores are fractions."""
    overrides = [f"--config.model.{key}={value}" for key, value in variant.items()]
    program("train", "--config=configs/demo.py", f"--config.seed={seed}", f"--workdir={workdir}", *overrides)
    trained_by = workdir / "commit.txt"  # a run that was finished earlier keeps the commit it was trained by
    if not trained_by.exists():
        trained_by.write_text(commit() or "unknown")
    row: dict[str, float | str] = {"commit": trained_by.read_text()}
    for mode, flags, name in (("", [], "val"), ("_ms_flip", ["--ms-flip"], "val-ms-flip")):
        program("eval", f"--workdir={workdir}", *flags)
        report = json.loads(RunFolder(workdir).scores_file(name).read_text())
        iou = dict(zip(report["classes"], report["IoU"], strict=True))
        row[f"mIoU{mode}"] = report["mIoU"]
        row[f"context_IoU{mode}"] = sum(iou[c] for c in CONTEXT_CLASSES) / len(CONTEXT_CLASSES)
    return row


def table(rows: list[dict]) -> str:
    """The rows as Markdown, in percent."""
    lines = [
        "| context module | seed | mIoU | context classes | mIoU, ms + flip |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row['context']} | {row['seed']} | {100 * row['mIoU']:.1f} | {100 * row['context_IoU']:.1f} "
            f"| {100 * row['mIoU_ms_flip']:.1f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=pathlib.Path, default=ROOT / "runs" / "streets_context")
    parser.add_argument("--seeds", type=int, default=1, help="repeat every row with so many seeds")
    arguments = parser.parse_args()

    rows = []
    for seed in range(arguments.seeds):
        for name, variant in VARIANTS.items():
            workdir = arguments.runs.resolve() / f"{name.replace(' ', '').replace(',', '-')}-{seed}"
            rows.append({"context": name, "seed": seed, **measure(variant, seed, workdir)})
            if name in PICTURED and seed == 0:
                picture = RunFolder(workdir).pictures("val") / "val-00003.png"
                shutil.copy(picture, RESULTS / f"streets_{PICTURED[name]}.png")
    head = result_head()  # not earlier: JAX here would take the memory of a GPU that the runs need
    report = {**head, "rows": rows}
    write_result(RESULTS / "streets_context.json", report)
    write_whole(RESULTS / "streets_context.md", table(rows))
    print(table(rows))


if __name__ == "__main__":
    main()
