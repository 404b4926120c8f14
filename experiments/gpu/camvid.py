"""Trains CamVid on a GPU for so many minutes, from its last checkpoint, and scores the test split.

    python -m experiments.gpu.camvid --data DIR --run RUN --output FILE.json --minutes 5

ResNet-50, bfloat16, the config `camvid` with fewer steps. A part of `experiments.on_gpu`.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

from ccnet_jax.engine.checkpoints import Checkpoints
from ccnet_jax.engine.folder import RunFolder
from experiments import markdown
from kernels.bench.measure import result_head, resume_report, sources, write_result
from kernels.bench.programs import result_file

STEPS, CHECKPOINT_EVERY = 6000, 500
TEST_SHARE, TEST_SECONDS = 0.3, 90.0  # of the time, and at most: for the test
GRACE = 30.0  # seconds in which training ends its step and writes a checkpoint
# The smallest network of the demo, for a run of all parts on a CPU.
TOY = ("--config=demo", "--config.data.name=camvid", "--config.data.crop=(48, 64)", "--config.batch_size=2")
TOY_STEPS = 2


def training_flags(data: pathlib.Path, run: pathlib.Path, steps: int, toy: bool) -> list[str]:
    """Of `ccnet_jax.train`."""
    cores = os.cpu_count() or 1
    config = TOY if toy else ("--config=camvid", "--config.dtype=bfloat16")
    return [
        *config,
        f"--config.data.dir={data}",
        f"--config.data.workers={min(8, cores - 2) if cores > 4 else 0}",
        f"--config.steps={steps}",
        f"--config.checkpoint_every={CHECKPOINT_EVERY}",
        "--config.eval_every=0",
        f"--workdir={run}",
    ]


def train(flags: list[str], seconds: float) -> None:
    """Train until the last step or for so many seconds. Raises CalledProcessError where training fails."""
    command = [sys.executable, "-m", "ccnet_jax.train", *flags]
    with subprocess.Popen(command) as process:
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.terminate()  # it writes a checkpoint, and its status says that it was told to stop
            try:
                process.wait(GRACE)
            except subprocess.TimeoutExpired:
                process.kill()
            return
    if status:
        raise subprocess.CalledProcessError(status, command)


def test_scores(data: pathlib.Path, run: pathlib.Path) -> dict[str, Any]:
    """What `ccnet_jax.eval` writes about the test split. Raises CalledProcessError."""
    with tempfile.TemporaryDirectory() as folder:
        output = pathlib.Path(folder) / "scores.json"
        flags = ["--split=test", f"--data-dir={data}", f"--output={output}"]
        subprocess.run([sys.executable, "-m", "ccnet_jax.eval", str(run), *flags], check=True)
        scores = json.loads(output.read_text())
    return {
        key: scores[key] for key in ("step", "images", "mIoU", "mAcc", "pixel_accuracy", "IoU", "classes")
    }


def last_logged(run: RunFolder) -> dict[str, Any]:
    """The last line of the run's metrics that training wrote, {} where there is none."""
    if not run.metrics_file.exists():
        return {}
    return json.loads(run.metrics_file.read_text().strip().rpartition("\n")[2] or "{}")


def tables(report: dict[str, Any]) -> dict[str, str]:
    """{"scores"}: Markdown, of the test split in percent, and the speed of training."""
    test = report["test"] or {"mIoU": None, "pixel_accuracy": None}
    scores = [markdown.percent(test[name]) for name in ("mIoU", "pixel_accuracy")]
    speed = report["training"].get("images_per_second")
    line = [f"{report['step']} of {report['steps']}", *scores, "-" if speed is None else f"{speed:.1f}"]
    return {"scores": markdown.table(["steps", "mIoU", "pixel accuracy", "images/s of training"], [line])}


def main(arguments: Sequence[str] | None = None) -> None:
    """The program."""
    start = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=pathlib.Path, required=True, help="folder of CamVid")
    parser.add_argument("--run", type=pathlib.Path, required=True, help="folder of the run")
    parser.add_argument("--output", type=result_file, required=True, help="JSON file")
    parser.add_argument("--minutes", type=float, required=True, help="for training and test together")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"of the schedule; default {STEPS}")
    parser.add_argument("--toy", action="store_true", help="two steps of a tiny network")
    flags = parser.parse_args(arguments)

    steps = TOY_STEPS if flags.toy else flags.steps
    seconds = 60 * flags.minutes
    training = max(0.0, seconds - min(TEST_SECONDS, TEST_SHARE * seconds) - (time.monotonic() - start))
    train(training_flags(flags.data, flags.run, steps, flags.toy), training)
    run = RunFolder.at(flags.run)
    step = Checkpoints.last_step(run) or 0
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # this process only asks for the device's name
    report = {**result_head(), "sources": sources("kernels", "ccnet_jax", "configs"), "toy": flags.toy}
    report = resume_report(flags.output, report | {"test": None}, ("test",))
    if report["test"] is not None and report["test"]["step"] > step:  # of another run
        report["test"] = None
    report |= {"step": step, "steps": steps, "training": last_logged(run), "finished": False}
    write_result(flags.output, report)  # the test may be cut off
    if step == 0:
        sys.exit("training was cut off before its first checkpoint")
    report |= {"test": test_scores(flags.data, flags.run), "finished": step == steps}
    write_result(flags.output, report)


if __name__ == "__main__":
    main()
