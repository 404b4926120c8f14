"""Time of a training step of Mask R-CNN: this project beside torchvision's.

    python -m experiments.instance_speed [--output FILE.json] [--rounds 5] [--toy]

ResNet-50, eight objects in each image, norms and first stage frozen, 512 regions of an image, the same
random weights in both. On a CPU: two images of 256x320 in float32. On a GPU: eight of 800x1344, COCO's
size, in bfloat16 and float32 (TF32). Each contender has a process of its own and they take turns in every
round. Needs torchvision. Writes experiments/results/instance_speed.json after every case.
"""

import argparse
import importlib.util
import os
import pathlib
import tempfile
from collections.abc import Sequence
from typing import Any

import jax

from ccnet_jax.common.progress import progress_bar
from experiments import markdown
from experiments.model_speed import Session, in_turn
from experiments.speed.cases import Case
from experiments.speed.instance_cases import PROGRAMS, SETUPS
from kernels.bench.measure import ROOT, result_head, sources, write_result
from kernels.bench.programs import result_file

PATH = ROOT / "experiments" / "results" / "instance_speed.json"
COMPARED_WITH = ("torch", "torchvision")
COLUMNS = (
    "case",
    "",
    "ms, middle half of the rounds",
    "JAX's time over this",
    "compile s",
    "peak GB",
    "first loss",
)


def tables(report: dict[str, Any]) -> dict[str, str]:
    """{"times"}: Markdown, a line for each contender of each case."""
    lines = []
    for case in report["cases"]:
        times = {name: markdown.digits(1e3 * row["seconds"]) for name, row in case["contenders"].items()}
        for name, row in case["contenders"].items():
            low, high = (markdown.digits(1e3 * row[key]) for key in ("p25", "p75"))
            lines.append(
                [
                    Case(**case["case"]).name,
                    name,
                    f"{times[name]} ({low} to {high})",
                    f"{markdown.ratio(times['jax'], times[name]):.2f}",
                    f"{row['compile_seconds']:.0f}",
                    f"{row['peak_bytes'] / 1e9:.2f}",
                    f"{row['first_loss']:.2f}",
                ]
            )
    return {"times": markdown.table(COLUMNS, lines)}


def main(arguments: Sequence[str] | None = None) -> None:
    """The program."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=result_file, help=f"default: {PATH.relative_to(ROOT)}")
    parser.add_argument("--rounds", type=int, help="of both in turn")
    parser.add_argument("--toy", action="store_true", help="a tiny image; writes no file unasked")
    flags = parser.parse_args(arguments)
    if importlib.util.find_spec("torchvision") is None:
        parser.error("torchvision is not installed; install torchvision, which brings torch")

    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # this process only asks for the device's name
    device = "gpu" if jax.default_backend() == "gpu" else "cpu"
    setup = SETUPS["toy" if flags.toy else device]
    setup = setup._replace(rounds=flags.rounds or setup.rounds)
    output = flags.output or (None if flags.toy else PATH)
    report: dict[str, Any] = result_head()
    report |= {"sources": sources("kernels", "ccnet_jax", "experiments/speed")}
    report |= {"toy": flags.toy, "cases": [], "finished": False}
    with tempfile.TemporaryDirectory() as folder, progress_bar(total=len(setup.cases), unit="case") as bar:
        for case in setup.cases:
            found = in_turn(case, PROGRAMS, setup, Session(device, None, pathlib.Path(folder)))
            failures = [
                f"{case.name}, {name}: {row['failure']}" for name, row in found.items() if row["failure"]
            ]
            if failures:
                parser.exit(1, "\n".join(failures) + "\n")
            report["cases"].append({"case": case._asdict(), "contenders": found})
            report["finished"] = case == setup.cases[-1]
            if output:  # after every case: a run that is cut short keeps what it has
                write_result(output, report)
            bar.update()
    print(tables(report)["times"])


if __name__ == "__main__":
    main()
