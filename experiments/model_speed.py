"""Time of a training step and of inference: this project in JAX beside the same network in PyTorch.

    python -m experiments.model_speed [--output FILE.json] [--contenders jax,torch.compile]
        [--cases TEXT] [--toy]

The same ResNet-50 or ResNet-101 with RCCA (two loops, 19 classes, mmsegmentation's network), the same
weights, images, precision and batch. JAX runs what `ccnet_jax.train` and `ccnet_jax.eval` run. PyTorch is
eager, with channels-last, or compiled (`torch.compile`, on a GPU only unless asked for). Each contender has a
process of its own and they take turns in every round, so that what slows the machine for a while slows them
all; one that does not fit the GPU's memory beside the others is timed alone. On a GPU: training at 8x769x769
and 16x512x512, inference at these and at 1x1024x2048, in bfloat16 and float32 (TF32). On a CPU: inference at
1x512x1024 and training at 2x360x480, in float32.

Writes experiments/results/model_speed.json after every case, and keeps the cases that the file holds
already, of this device, these versions and these sources. One that failed is not tried again: remove the file
to do so. Needs PyTorch; without it only JAX is timed.
"""

import argparse
import contextlib
import functools
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from ccnet_jax.common.progress import progress_bar
from experiments import markdown
from experiments.speed.cases import CONTENDERS, SETUPS, Case, Setup
from experiments.speed.worker import Failed, Worker
from kernels.bench.measure import ROOT, result_head, resume_report, sources, write_result
from kernels.bench.programs import result_file
from kernels.criss_cross import blocks

RESULT = ROOT / "experiments" / "results" / "model_speed.json"
COMPARED_WITH = ("torch",)


# ------------------------------------------------------------------------------------------------ measurement
class Session:
    """What all cases share: the device, the kernels' tuned block sizes, a folder for weights and logits."""

    def __init__(self, device: str, tuned: pathlib.Path | None, folder: pathlib.Path):
        self.device, self.folder = device, folder
        self.tuned = None if tuned is None else str(tuned.resolve())

    def make_weights(self, case: Case) -> None:
        """Write the files of the case's weights, once for each network."""
        if case.weights_file(self.folder, "torch").exists():
            return
        command = [sys.executable, "-m", "experiments.speed.weights", str(self.folder)]
        subprocess.run(
            [*command, json.dumps(case._asdict())], env=os.environ | {"JAX_PLATFORMS": "cpu"}, check=True
        )

    def logits_file(self, name: str) -> pathlib.Path:
        """The contender's logits of the case at hand."""
        return self.folder / f"logits {name}.npy"

    def request(self, case: Case, name: str) -> dict[str, Any]:
        """What a worker needs to prepare a case."""
        return {"case": case._asdict(), "contender": name, "folder": str(self.folder)} | {
            "device": self.device,
            "blocks": self.tuned,
        }


def measured_case(case: Case, names: Sequence[str], setup: Setup, session: Session) -> dict[str, Any]:
    """{contender: its numbers}."""
    session.make_weights(case)
    for name in names:
        session.logits_file(name).unlink(missing_ok=True)
    found = in_turn(case, {name: CONTENDERS[name] for name in names}, setup, session)
    for name, numbers in found.items():
        if len(names) > 1 and is_lack_of_memory(numbers["failure"]):
            alone = in_turn(case, {name: CONTENDERS[name]}, setup, session)
            found[name] = alone[name] | {"alone": True}
    for name, numbers in found.items():
        numbers["logits_difference"] = logits_difference(session, name) if name != "jax" else None
    return found


def is_lack_of_memory(failure: str | None) -> bool:
    """Whether a failure says so, in any library's words."""
    return failure is not None and ("memory" in failure.lower() or "RESOURCE_EXHAUSTED" in failure)


def in_turn(case: Case, programs: Mapping[str, str], setup: Setup, session: Session) -> dict[str, Any]:
    """{contender: its numbers}, timed in turn in every round, from {contender: the program that times it}."""
    numbers: dict[str, dict[str, Any]] = {name: {"failure": None, "alone": False} for name in programs}
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    calls: dict[str, int] = {}

    with contextlib.ExitStack() as closing:
        workers = {
            name: closing.enter_context(Worker(program, session.folder / f"{name}.log"))
            for name, program in programs.items()
        }

        def ask(name: str, **request: Any) -> dict[str, Any]:
            """The answer; of a contender that has failed, nothing."""
            if numbers[name]["failure"] is None:
                try:
                    return workers[name].ask(**request)
                except Failed as failure:
                    numbers[name]["failure"] = str(failure)
            return {}

        for name in programs:
            numbers[name] |= ask(name, **session.request(case, name))
        for name in programs:  # a second call, without compilation, warms up and says how many make a round
            if second := ask(name, calls=1).get("seconds"):
                calls[name] = min(1000, max(1, round(setup.round_seconds / second)))
                numbers[name]["compile_seconds"] = max(0.0, numbers[name]["first_seconds"] - second)
        for _ in range(setup.rounds):
            for name in programs:
                if answer := ask(name, calls=calls.get(name, 1)):
                    seconds[name].append(answer["seconds"])
        for name in programs:
            numbers[name] |= ask(name, logits=str(session.logits_file(name)))
            if numbers[name]["failure"] is None:
                numbers[name] |= spread(seconds[name], case.batch)
    return numbers


def spread(seconds: list[float], batch: int) -> dict[str, Any]:
    """Median, quartiles and extremes of the rounds, and the images a second of the median."""
    low, p25, median, p75, high = (float(x) for x in np.percentile(seconds, [0, 25, 50, 75, 100]))
    return {"seconds": median, "p25": p25, "p75": p75, "low": low, "high": high} | {
        "rounds": seconds,
        "images_per_second": batch / median,
    }


def logits_difference(session: Session, name: str) -> float | None:
    """The largest difference from JAX's logits over the largest logit; None where there are none."""
    ours, theirs = session.logits_file("jax"), session.logits_file(name)
    if not (ours.exists() and theirs.exists()):
        return None
    exact = np.load(theirs)
    return float(np.abs(np.load(ours) - exact).max() / np.abs(exact).max())


# ----------------------------------------------------------------------------------------------------- tables
COLUMNS = (
    "case",
    "contender",
    "images/s",
    "ms, middle half of the rounds",
    "JAX's time over this",
    "compile s",
    "peak GB",
    "logits or loss",
)


def tables(report: dict[str, Any]) -> dict[str, str]:
    """{"times"}: Markdown, a line for each contender in each case."""
    lines = []
    for row in report["cases"]:
        case, ours = Case(**row["case"]), row["contenders"].get("jax", {})
        title = markdown.measured_at(case.name, row["commit"], report["commit"])
        for name, numbers in row["contenders"].items():
            lines.append([title, *cells(name, numbers, ours)])
    return {"times": markdown.table(COLUMNS, lines)}


def cells(name: str, numbers: dict[str, Any], ours: dict[str, Any]) -> list[str]:
    """Of one contender's line, after the case."""
    if numbers["failure"] is not None:
        return [name, *["-"] * (len(COLUMNS) - 3), f"failed: {numbers['failure']}"]
    time = milliseconds(numbers)
    low, high = (markdown.digits(1e3 * numbers[key]) for key in ("p25", "p75"))
    ratio = f"{markdown.ratio(milliseconds(ours), time):.2f}" if ours.get("seconds") else "-"
    return [
        name + (" (alone)" if numbers["alone"] else ""),
        images_per_second(numbers),
        f"{time} ({low} to {high})",
        ratio,
        f"{numbers['compile_seconds']:.0f}",
        f"{numbers['peak_bytes'] / 1e9:.2f}",
        agreement(numbers),
    ]


def milliseconds(numbers: dict[str, Any]) -> str:
    """The time of a contender, as the table shows it."""
    return markdown.digits(1e3 * numbers["seconds"])


def images_per_second(numbers: dict[str, Any]) -> str:
    """The speed of a contender, as the table shows it."""
    return f"{numbers['images_per_second']:.3g}"


def agreement(numbers: dict[str, Any]) -> str:
    """How far the results are from JAX's, for a table."""
    if numbers["logits_difference"] is not None:
        return f"{numbers['logits_difference']:.0e}"
    return f"loss {numbers['first_loss']:.3f}" if "first_loss" in numbers else "-"


# ---------------------------------------------------------------------------------------------------- program
def chosen_contenders(text: str | None, setup: Setup) -> list[str]:
    """Of "jax,torch"; those of the setup without it. Without PyTorch only JAX; says so."""
    names = text.split(",") if text else list(setup.contenders)
    if unknown := [name for name in names if name not in CONTENDERS]:
        raise argparse.ArgumentTypeError(f"unknown {unknown}; choose of {', '.join(CONTENDERS)}")
    if importlib.util.find_spec("torch") is None and (skipped := [name for name in names if name != "jax"]):
        print(f"PyTorch is not installed: {', '.join(skipped)} are skipped.")
        names = [name for name in names if name == "jax"]
    return names


def main(arguments: Sequence[str] | None = None) -> None:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--output", type=result_file, help=f"default: {RESULT.relative_to(ROOT)}")
    parser.add_argument("--contenders", help=f"of {','.join(CONTENDERS)}; default: those for this device")
    parser.add_argument("--cases", help="only those with this in their name, for example `inference R-50`")
    parser.add_argument("--rounds", type=int, help="of all contenders in turn")
    parser.add_argument(
        "--blocks", type=pathlib.Path, help="block sizes of the kernels, from `tune --output`"
    )
    parser.add_argument("--toy", action="store_true", help="a tiny network; writes no file unasked")
    flags = parser.parse_args(arguments)

    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # this process only asks for the device's name
    device = "gpu" if jax.default_backend() == "gpu" else "cpu"
    setup = SETUPS["toy" if flags.toy else device]
    chosen = tuple(case for case in setup.cases if (flags.cases or "") in case.name)
    if not chosen:
        parser.error(f"no case has {flags.cases!r} in its name: {', '.join(x.name for x in setup.cases)}")
    all_cases = set(setup.cases)
    setup = setup._replace(rounds=flags.rounds or setup.rounds, cases=chosen)
    try:
        names = chosen_contenders(flags.contenders, setup)
    except argparse.ArgumentTypeError as error:
        parser.error(str(error))
    output = flags.output or (None if flags.toy else RESULT)

    if flags.blocks:
        blocks.use_tuned(flags.blocks)  # here, to note them
    report: dict[str, Any] = result_head()
    report |= {"sources": sources("kernels", "ccnet_jax", "experiments/speed")}
    report |= {"toy": flags.toy, "cases": [], "finished": False}
    if output:
        report = resume_report(output, report, ("cases", "finished"))
    done = {Case(**row["case"]): set(row["contenders"]) for row in report["cases"]}
    left = [case for case in setup.cases if not done.get(case, set()) >= set(names)]
    with (
        tempfile.TemporaryDirectory() as folder,
        progress_bar(total=len(setup.cases), initial=len(setup.cases) - len(left), unit="case") as bar,
    ):
        session = Session(device, flags.blocks, pathlib.Path(folder))
        measure = functools.partial(measured_case, names=names, setup=setup, session=session)
        for case in left:
            row: dict[str, Any] = {
                "case": case._asdict(),
                "contenders": measure(case),
                "blocks": blocks.table_rows(),
                "commit": report["commit"],
            }
            report["cases"] = [x for x in report["cases"] if Case(**x["case"]) != case] + [row]
            report["finished"] = {Case(**x["case"]) for x in report["cases"]} >= all_cases
            if output:  # after every case: a run that is cut short keeps what it has
                write_result(output, report)
            bar.update()
            bar.write(f"{case.name}: {summary(row['contenders'])}")
    print(tables(report)["times"])


def summary(contenders: dict[str, dict[str, Any]]) -> str:
    """Of a case, in one line."""
    words = {
        name: f"{1e3 * x['seconds']:.4g} ms" if x["failure"] is None else f"failed ({x['failure']})"
        for name, x in contenders.items()
    }
    return ", ".join(f"{name} {text}" for name, text in words.items())


if __name__ == "__main__":
    main()
