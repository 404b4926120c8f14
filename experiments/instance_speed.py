"""Time of a training step of Mask R-CNN on a CPU: this project beside torchvision's.

    python -m experiments.instance_speed [--rounds 5] [--toy]

ResNet-50, two pictures of 256x320 with eight objects each, float32, norms and first stage frozen, 512 regions
of a picture, torchvision's random weights in both. Each has a process of its own and they take turns in every
round. Needs torchvision. Writes experiments/results/instance_speed.json.
"""

import argparse
import importlib.util
import os
import pathlib
import tempfile
from collections.abc import Sequence
from typing import Any

from experiments import markdown
from experiments.model_speed import Session, in_turn
from experiments.speed.cases import Case, Setup
from experiments.speed.instance_cases import CASE, PROGRAMS
from kernels.measure import ROOT, result_head, write_result

PATH = ROOT / "experiments" / "results" / "instance_speed.json"
COMPARED_WITH = ("torch", "torchvision")
TOY = Case("training", 18, 1, 64, 64, "float32")


def tables(report: dict[str, Any]) -> dict[str, str]:
    """{"times"}: Markdown, a line for each contender."""
    ours = report["contenders"]["jax"]["seconds"]
    lines = [
        [
            name,
            f"{1e3 * row['seconds']:.0f} ({1e3 * row['p25']:.0f} to {1e3 * row['p75']:.0f})",
            f"{ours / row['seconds']:.2f}",
            f"{row['compile_seconds']:.0f}",
            f"{row['peak_bytes'] / 1e9:.2f}",
            f"{row['first_loss']:.2f}",
        ]
        for name, row in report["contenders"].items()
    ]
    header = ["", "ms, middle half of the rounds", "JAX's time over this"]
    header += ["compile s", "peak GB", "first loss"]
    return {"times": markdown.table(header, lines)}


def main(arguments: Sequence[str] | None = None) -> None:
    """The program."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="of both in turn")
    parser.add_argument("--toy", action="store_true", help="a tiny picture; writes no file")
    flags = parser.parse_args(arguments)
    if importlib.util.find_spec("torchvision") is None:
        parser.error("torchvision is not installed; install torchvision, which brings torch")

    os.environ["JAX_PLATFORMS"] = "cpu"
    case = TOY if flags.toy else CASE
    setup = Setup((case,), tuple(PROGRAMS), flags.rounds, round_seconds=1.0)
    with tempfile.TemporaryDirectory() as folder:
        found = in_turn(case, PROGRAMS, setup, Session("cpu", None, pathlib.Path(folder)))
    if failures := [f"{name}: {row['failure']}" for name, row in found.items() if row["failure"] is not None]:
        parser.exit(1, "\n".join(failures) + "\n")
    report = result_head() | {"case": case._asdict(), "contenders": found}
    if not flags.toy:
        write_result(PATH, report)
    print(tables(report)["times"])


if __name__ == "__main__":
    main()
