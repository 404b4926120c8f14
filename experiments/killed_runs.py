"""Runs that are killed again and again end as one that is not: a campaign of SIGKILLs and signals.

    python -m experiments.killed_runs [--runs 20] [--kills 5] [--seed 0] [--folder runs/killed]

Trains a small network on the built-in scenes once undisturbed, then RUNS times with KILLS kills each, at
moments drawn at random: while the program starts, compiles, makes steps, writes a checkpoint, evaluates, and
after its last step.
Every fourth kill is SIGTERM to the process and its workers, the others are SIGKILL to the process alone. Then
it compares weights, metrics.jsonl, TensorBoard's points, images and the best checkpoint, all bit for bit,
and looks for what is left behind: fragments of files, processes, shared memory. Writes
experiments/results/killed_runs.json after every run, and goes on with what is missing. Linux only.
"""

import argparse
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from typing import Any

import jax
import numpy as np

from ccnet_jax.common.errors import UserError
from ccnet_jax.common.progress import progress_bar
from ccnet_jax.config import command_line
from ccnet_jax.engine.checkpoints import Checkpoints, load_arrays, step_folder
from ccnet_jax.engine.folder import RunFolder
from ccnet_jax.engine.metric_log import is_evaluated, points, read_log
from experiments import markdown
from kernels.bench.measure import ROOT, result_head, resume_report, sources, write_result

PATH = ROOT / "experiments" / "results" / "killed_runs.json"
EVAL_EVERY = 8
SETTINGS = {
    "steps": 40,
    "batch_size": 2,
    "log_every": 2,
    "eval_every": EVAL_EVERY,
    "checkpoint_every": 3,
    "data.crop": "(48,64)",
    "data.flip": True,
    "data.workers": 1,
}
TIMES = (
    *("images_per_second", "data_wait_fraction", "seconds_left"),
    *("compile_seconds", "save_seconds", "seconds_to_first_step"),
)
PHASES = ("start", "compile", "step", "save", "evaluation", "end")
PHASE_SECONDS = 120.0  # seconds for a phase to come; then the run is killed where it is


def start(run: RunFolder) -> subprocess.Popen:
    """The training program in a session of its own; what it prints goes to a file beside the run."""
    flags = [f"--config.{key}={value}" for key, value in SETTINGS.items()]
    with run.path.with_suffix(".log").open("a") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "ccnet_jax.train", "--config=demo", f"--workdir={run.path}", *flags],
            cwd=run.path.parent,  # the user's runs/latest stays as it is
            env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def remove(run: RunFolder) -> None:
    """Remove what an earlier campaign, or one that was cut off, left of a run."""
    shutil.rmtree(run.path, ignore_errors=True)
    run.path.with_suffix(".log").unlink(missing_ok=True)


def phase(run: RunFolder, printed: int, reached: int) -> str:
    """What the program is doing, as far as its files and its output tell.

    Args:
      run: its folder.
      printed: bytes in its log before it was started.
      reached: the step from which it went on.
    """
    if Checkpoints.last_step(run) == SETTINGS["steps"]:
        return "end"  # the last evaluation, the last images, and whatever is closed
    if any((run.checkpoints / "last").glob("*.orbax-checkpoint-tmp*")):
        return "save"
    if b"parameters, " not in run.path.with_suffix(".log").read_bytes()[printed:]:
        return "start"
    lines = read_log(run)
    if not lines or lines[-1]["step"] <= reached:
        return "compile"
    step = Checkpoints.last_step(run) or 0
    due = step > 0 and step % EVAL_EVERY == 0
    return "evaluation" if due and not is_evaluated(run, step, "val") else "step"


def kill(run: RunFolder, wanted: str, number: int, delay: float) -> tuple[str | None, int]:
    """Start the program and send it a signal `delay` seconds into a phase.

    Returns:
      The phase in which the signal came, None if the run had ended; and the number of its processes that
      live on half a minute later.
    """
    printed = run.path.with_suffix(".log").stat().st_size if run.path.exists() else 0
    reached = Checkpoints.last_step(run) or 0
    process = start(run)
    deadline = time.monotonic() + PHASE_SECONDS
    while process.poll() is None and phase(run, printed, reached) != wanted and time.monotonic() < deadline:
        time.sleep(0.002)
    time.sleep(delay)
    if process.poll() is not None:
        return None, 0
    found = phase(run, printed, reached)
    if number == signal.SIGKILL:
        process.kill()
    else:
        os.killpg(process.pid, number)
    process.wait()
    deadline = time.monotonic() + 30
    while left_behind(process) and time.monotonic() < deadline:
        time.sleep(0.2)
    return found, len(left_behind(process))


def left_behind(process: subprocess.Popen) -> list[str]:
    """Processes of the session that live on."""
    found = []
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == process.pid and fields[0] != "Z":
            found.append(stat.parent.name)
    return found


def fragments(run: RunFolder) -> list[str]:
    """Temporary files and folders below a run."""
    return [
        str(path.relative_to(run.path))
        for path in run.path.rglob("*")
        if path.name.endswith(".tmp") or "orbax-checkpoint-tmp" in path.name
    ]


def records(run: RunFolder) -> dict[str, Any]:
    """All that a run leaves, without times."""
    lines = [{name: x for name, x in line.items() if name not in TIMES} for line in read_log(run)]
    scalars = sorted(point for point in points(run) if point[1] not in TIMES)
    images = {path.name: path.read_bytes() for path in sorted(run.images("val").iterdir())}
    folders = {which: step_folder(run, which) for which in ("last", "best")}
    arrays = {}
    for which, folder in folders.items():
        assert folder is not None
        arrays[which] = (folder.name, load_arrays(folder))
    return {"metrics": lines, "points": scalars, "images": images, "weights": arrays}


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Names of the records that are not the same in both."""
    found = [name for name in ("metrics", "points", "images") if one[name] != other[name]]
    for which, (step, arrays) in one["weights"].items():
        try:
            assert step == other["weights"][which][0]
            jax.tree.map(np.testing.assert_array_equal, arrays, other["weights"][which][1])
        except AssertionError:
            found.append(f"weights of {which}")
    return found


def disturb(run: RunFolder, kills: int, rng: random.Random) -> dict[str, Any]:
    """Kill a run again and again, let it end, and tell what happened. A run that has ended is not killed."""
    signals, phases, survivors = [], [], 0
    for n in range(kills):
        number = signal.SIGTERM if n % 4 == 3 else signal.SIGKILL
        where, left = kill(run, rng.choice(PHASES), number, rng.uniform(0, 0.2))
        if where is None:
            break
        phases.append(where)
        signals.append(number.name)
        survivors += left
    code = start(run).wait()
    return {
        "kills": dict(Counter(phases)),
        "signals": dict(Counter(signals)),
        "processes_left": survivors,
        "exit_code": code,
        "fragments": fragments(run),
    }


def tables(report: dict[str, Any]) -> dict[str, str]:
    """{"kills"}: Markdown, how many kills came in which phase, and how many runs ended as the undisturbed."""
    kills: Counter = Counter()
    for row in report["rows"]:
        kills.update(row["kills"])
    same = sum(not row["differences"] and row["exit_code"] == 0 for row in report["rows"])
    left = sum(row["processes_left"] + len(row["fragments"]) for row in report["rows"])
    header = [
        "runs",
        "kills",
        *(f"in {phase}" for phase in PHASES),
        "equal to the undisturbed",
        "left behind",
    ]
    line = [str(len(report["rows"])), str(kills.total()), *(str(kills[phase]) for phase in PHASES)]
    return {"kills": markdown.table(header, [[*line, f"{same} of {len(report['rows'])}", str(left)]])}


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=command_line.positive, default=20)
    parser.add_argument("--kills", type=command_line.positive, default=5, help="of each run")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--folder", type=pathlib.Path, default=ROOT / "runs" / "killed")
    flags = parser.parse_args()

    folder = flags.folder.expanduser().resolve()
    folder.mkdir(parents=True, exist_ok=True)
    report = result_head() | {"sources": sources("kernels", "ccnet_jax", "configs"), "rows": []}
    report = resume_report(PATH, report, ("rows",))
    plain = RunFolder(folder / "undisturbed")
    remove(plain)
    if start(plain).wait():
        raise UserError(f"the undisturbed run fails; see {plain.path.with_suffix('.log')}")
    wanted = records(plain)
    shared = set(os.listdir("/dev/shm"))
    for n in progress_bar(range(len(report["rows"]), flags.runs), unit="run"):
        run = RunFolder(folder / f"run-{flags.seed}-{n}")
        remove(run)
        row = disturb(run, flags.kills, random.Random(f"{flags.seed}-{n}"))
        row["shared_memory_left"] = len(set(os.listdir("/dev/shm")) - shared)
        row["differences"] = differences(wanted, records(run)) if row["exit_code"] == 0 else ["no end"]
        report["rows"].append(row)
        write_result(PATH, report)
    print(tables(report)["kills"])


if __name__ == "__main__":
    command_line.run(main)
