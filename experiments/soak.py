"""Whether a long run stays as it is: memory, descriptors, threads, checkpoints and the time of a step.

    python -m experiments.soak [--steps 5000] [--folder runs/soak]

Trains the smallest network on the built-in scenes with one worker, validation and checkpoints, and looks
every second at the whole tree of processes. Writes experiments/results/soak.json with the change per 1,000
steps of each quantity after the first fifth, which warms up, and how uncertain that change is; and with how
long training stood still for checkpoints. Linux only.
"""

import argparse
import contextlib
import itertools
import os
import pathlib
import shutil
import subprocess
import sys
import time
from typing import Any

import numpy as np

from ccnet_jax.common.errors import UserError
from ccnet_jax.common.progress import progress_bar
from ccnet_jax.config import command_line
from ccnet_jax.engine.folder import RunFolder
from ccnet_jax.engine.metric_log import read_log
from experiments import markdown
from kernels.bench.measure import ROOT, result_head, write_result

PATH = ROOT / "experiments" / "results" / "soak.json"
SETTINGS: dict[str, Any] = {
    "batch_size": 1,
    "log_every": 10,
    "eval_every": 25,
    "checkpoint_every": 100,
    "data.crop": "(32,32)",
    "data.workers": 1,
    "model.width": 0.125,
    "model.context": "none",
}
WARM_UP = 0.2  # fraction of the steps
QUANTITIES = {
    "memory": "MB of main memory, of all processes",
    "descriptors": "open files",
    "threads": "threads",
    "checkpoints": "MB of checkpoints",
    "milliseconds": "ms a step",
}


def tree(root: int) -> list[pathlib.Path]:
    """/proc/PID of a process and of all below it."""
    parents = {}
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found = [root]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return [pathlib.Path("/proc") / str(pid) for pid in found]


def state(process: int, run: RunFolder) -> dict[str, float]:
    """What the processes hold now. Memory is each process's part of what it shares with others."""
    memory = descriptors = threads = 0
    for place in tree(process):
        try:
            fields = (place / "smaps_rollup").read_text()
            memory += int(next(x for x in fields.splitlines() if x.startswith("Pss:")).split()[1])
            descriptors += len(os.listdir(place / "fd"))
            threads += len(os.listdir(place / "task"))
        except (OSError, StopIteration):
            continue  # it has just ended
    size = 0
    for folder, _, files in os.walk(run.checkpoints):  # which goes on where a folder is removed meanwhile
        for name in files:
            with contextlib.suppress(OSError):
                size += os.stat(os.path.join(folder, name)).st_size
    return {
        "memory": memory / 1024,
        "descriptors": descriptors,
        "threads": threads,
        "checkpoints": size / 1e6,
    }


def slope(steps: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    """The change per 1,000 steps by least squares, and its standard error from ten blocks.

    Neighbouring values are alike, so that the error of the fit itself would be too small.
    """
    blocks = [block for block in np.array_split(np.arange(len(steps)), 10) if len(block)]
    x = np.array([steps[block].mean() for block in blocks])
    y = np.array([np.median(values[block]) for block in blocks])
    fit = np.polyfit(x, y, 1)
    rest = y - np.polyval(fit, x)
    error = np.sqrt((rest**2).sum() / max(len(x) - 2, 1) / ((x - x.mean()) ** 2).sum())
    return 1000 * float(fit[0]), 1000 * float(error)


def saving(lines: list[dict[str, Any]]) -> dict[str, float]:
    """What checkpoints cost by the logs of steps: their number, seconds of each, fraction of the time.

    The time is that of steps and of the standstill for checkpoints, without validation and compiling.
    """
    steps = [0] + [line["step"] for line in lines]
    lengths = [step - before for before, step in itertools.pairwise(steps)]
    training = sum(n / line["images_per_second"] for n, line in zip(lengths, lines, strict=True))
    training *= SETTINGS["batch_size"]
    still = sum(line["save_seconds"] for line in lines)
    due = [SETTINGS["eval_every"], SETTINGS["checkpoint_every"]]
    number = sum(any(step % every == 0 for every in due) for step in range(1, steps[-1]))
    return {"checkpoints": number, "seconds": still / number, "fraction": still / (still + training)}


def tables(report: dict[str, Any]) -> dict[str, str]:
    """{"slopes"}: Markdown, a line for each quantity; {"saving"}: what `saving` returns."""
    lines = [
        [words, f"{row['median']:.4g}", f"{row['slope']:+.3g} ± {row['error']:.2g}"]
        for words, row in ((QUANTITIES[name], row) for name, row in report["quantities"].items())
    ]
    saved = report["saving"]
    cells = [f"{saved['checkpoints']:,}", f"{saved['seconds']:.3f}", markdown.percent(saved["fraction"])]
    return {
        "slopes": markdown.table(["", "median", "change per 1,000 steps"], lines),
        "saving": markdown.table(["checkpoints", "s of standstill each", "% of the time"], [cells]),
    }


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=command_line.positive, default=5000)
    parser.add_argument("--folder", type=pathlib.Path, default=ROOT / "runs" / "soak")
    flags = parser.parse_args()

    run = RunFolder(flags.folder.expanduser().resolve())
    shutil.rmtree(run.path, ignore_errors=True)  # a soak is one run from its first step
    run.path.parent.mkdir(parents=True, exist_ok=True)
    settings = [f"--config.{key}={value}" for key, value in (SETTINGS | {"steps": flags.steps}).items()]
    samples: list[dict[str, float]] = []
    with run.path.with_suffix(".log").open("w") as log, progress_bar(total=flags.steps, unit="step") as bar:
        process = subprocess.Popen(
            [sys.executable, "-m", "ccnet_jax.train", "--config=demo", f"--workdir={run.path}", *settings],
            cwd=run.path.parent,
            env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
            stdout=log,
            stderr=log,
        )
        try:
            while process.poll() is None:
                time.sleep(1)
                lines = read_log(run)
                step = lines[-1]["step"] if lines else 0
                if step:
                    samples.append(state(process.pid, run) | {"step": step})
                bar.update(step - bar.n)
        finally:
            process.terminate()  # where this program ends first
    if process.returncode:
        raise UserError(f"training ended with exit status {process.returncode}; see {log.name}")

    lines = [line for line in read_log(run) if "images_per_second" in line]
    warm = WARM_UP * flags.steps
    series = {
        name: [(sample["step"], sample[name]) for sample in samples]
        for name in ("memory", "descriptors", "threads", "checkpoints")
    }
    series["milliseconds"] = [(line["step"], 1e3 / line["images_per_second"]) for line in lines]
    quantities = {}
    for name, pairs in series.items():
        steps, values = np.array([pair for pair in pairs if pair[0] > warm]).T
        change, error = slope(steps, values)
        quantities[name] = {"median": float(np.median(values)), "slope": change, "error": error}
    compiled = [line["step"] for line in steps if line["compile_seconds"] > 0]
    report = result_head() | {"steps": flags.steps, "quantities": quantities, "saving": saving(lines)}
    report["steps_that_compiled"] = compiled
    write_result(PATH, report)
    print(*tables(report).values(), sep="\n\n")
    if compiled != [lines[0]["step"]]:
        raise UserError(f"JAX compiled the step again in the logs of the steps {compiled[1:]}")


if __name__ == "__main__":
    command_line.run(main)
