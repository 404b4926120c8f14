"""Latency of inference on a CPU: JAX, exported files in JAX and onnxruntime, the same network in PyTorch.

    python -m experiments.export_latency [--rounds 5] [--toy] [--output FILE.json]

The same ResNet-50 with RCCA (two loops, 19 classes, mmsegmentation's network) and the same weights, one
image of 512x1024, float32, from uint8 pixels to the label map. "jax" is what `ccnet_jax.eval` runs; "jax
stablehlo" and "onnxruntime" run the files that `ccnet_jax.export --size 512,1024 --batch 1` writes, the first
with the compiler options that docs/export.md names, and without; PyTorch is eager, in its default layout and
in channels-last. Each contender has a process of its own, and they take
turns in every round. Needs onnx, onnxruntime and PyTorch. Writes experiments/results/export_latency.json.
"""

import argparse
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments import markdown
from experiments.model_speed import Session, in_turn
from experiments.speed.cases import CONTENDERS, CPU_CASES, TOY_CASES, Case, Setup
from experiments.speed.exported_files import exported_file
from experiments.speed.exported_side import DEFAULT_OPTIONS
from kernels.bench.measure import ROOT, result_head, sources, write_result
from kernels.bench.programs import result_file

RESULT = ROOT / "experiments" / "results" / "export_latency.json"
COMPARED_WITH = ("onnxruntime", "torch")
EXPORTED = {  # {contender: format of its file}
    "jax stablehlo": "stablehlo",
    DEFAULT_OPTIONS: "stablehlo",
    "onnxruntime": "onnx",
}
PROGRAMS = {  # {contender: the program that times it}
    "jax": CONTENDERS["jax"],
    **dict.fromkeys(EXPORTED, "experiments.speed.exported_side"),
    "torch": CONTENDERS["torch"],
    "torch channels-last": CONTENDERS["torch channels-last"],
}


class ExportSession(Session):
    """A session whose folder has the case's exported files, too."""

    def make_files(self, case: Case) -> None:
        """Write the weights, and the files of the network with them."""
        self.make_weights(case)
        command = [sys.executable, "-m", "experiments.speed.exported_files", str(self.folder)]
        environment = os.environ | {"JAX_PLATFORMS": "cpu"}
        subprocess.run([*command, json.dumps(case._asdict())], env=environment, check=True)

    def request(self, case: Case, name: str) -> dict[str, Any]:
        """What a worker needs to prepare a case."""
        files = {x: str(exported_file(case, self.folder, form)) for x, form in EXPORTED.items()}
        return super().request(case, name) | {"files": files}


def measure(case: Case, setup: Setup, session: ExportSession) -> dict[str, Any]:
    """{contender: its numbers}, with the fraction of pixels to which it gives JAX's class."""
    session.make_files(case)
    found = in_turn(case, {name: PROGRAMS[name] for name in setup.contenders}, setup, session)
    ours = labels_of(session, "jax")
    for name, numbers in found.items():
        theirs = labels_of(session, name)
        same = None if ours is None or theirs is None else float((ours == theirs).mean())
        numbers["same_labels"] = same
    return found


def labels_of(session: Session, name: str) -> np.ndarray | None:
    """The first image's label map from what a contender left, logits or labels; None where it left none."""
    path = session.logits_file(name)
    if not path.exists():
        return None
    left = np.load(path)
    return left.argmax(-1) if left.ndim == 3 else left


def tables(report: dict[str, Any]) -> dict[str, str]:
    """{"times"}: Markdown, a line for each contender."""
    times = {name: markdown.digits(1e3 * row["seconds"]) for name, row in report["contenders"].items()}
    lines = [
        [
            name,
            f"{times[name]} ({markdown.digits(1e3 * row['p25'])} to {markdown.digits(1e3 * row['p75'])})",
            f"{markdown.ratio(times['jax'], times[name]):.2f}",
            f"{row['compile_seconds']:.0f}",
            f"{row['peak_bytes'] / 1e9:.2f}",
            "-" if name == "jax" or row["same_labels"] is None else f"{100 * row['same_labels']:.3f}",
        ]
        for name, row in report["contenders"].items()
    ]
    header = ["", "ms, middle half of the rounds", "JAX's time over this"]
    header += ["compile s", "peak GB", "pixels labelled as by JAX, %"]
    return {"times": markdown.table(header, lines)}


def main(arguments: Sequence[str] | None = None) -> None:
    """The program."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="of all in turn; default %(default)s")
    parser.add_argument("--output", type=result_file, help=f"default: {RESULT.relative_to(ROOT)}")
    parser.add_argument("--toy", action="store_true", help="a tiny network; writes no file unasked")
    flags = parser.parse_args(arguments)
    if missing := [x for x in ("onnx", "onnxruntime", "torch") if importlib.util.find_spec(x) is None]:
        parser.error(f"{' and '.join(missing)} not installed; install them with pip, without CUDA")

    os.environ["JAX_PLATFORMS"] = "cpu"
    case = (TOY_CASES if flags.toy else CPU_CASES)[0]
    setup = Setup((case,), tuple(PROGRAMS), flags.rounds, round_seconds=0.0 if flags.toy else 1.0)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(case, setup, ExportSession("cpu", None, pathlib.Path(folder)))
    if failures := [f"{name}: {row['failure']}" for name, row in found.items() if row["failure"] is not None]:
        parser.exit(1, "\n".join(failures) + "\n")
    report = result_head() | {"sources": sources("kernels", "ccnet_jax", "experiments/speed")}
    report |= {"case": case._asdict(), "contenders": found}
    output = flags.output or (None if flags.toy else RESULT)
    if output:
        write_result(output, report)
    print(tables(report)["times"])


if __name__ == "__main__":
    main()
