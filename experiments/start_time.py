"""How long the demo takes to its first step, with and without compiled programs in the cache.

    python -m experiments.start_time [--rounds 3]

Every round starts `train --config demo` twice with a cache folder of its own: the first start fills it, the
second finds its programs there. The clock runs from the start of the process, imports included, until the
first step is in the log. Writes experiments/results/start_time.json after every round; started again, it
keeps the rounds of the same device, versions and sources.
"""

import argparse
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

from ccnet_jax.common.errors import UserError
from ccnet_jax.common.progress import progress_bar
from ccnet_jax.config import command_line
from ccnet_jax.engine.folder import RunFolder
from experiments import markdown
from kernels.bench.measure import ROOT, result_head, resume_report, sources, write_result

PATH = ROOT / "experiments" / "results" / "start_time.json"
CONFIG = "demo"
STARTS = ("first", "second")
POLL_SECONDS = 0.01


def seconds_to_first_step(config: str, run: RunFolder, cache: pathlib.Path) -> float:
    """Start a training of one step and wait for its end.

    Args:
      config: NAME or NAME:VARIANT.
      run: the folder of the run; must not exist, but its parent must.
      cache: stands for the user's cache folder.

    Raises UserError where training fails.
    """
    words = [f"--config={config}", f"--workdir={run.path}", "--config.steps=1"]
    moved = ("JAX_COMPILATION_CACHE_DIR", "JAX_ENABLE_COMPILATION_CACHE")
    environment = {name: value for name, value in os.environ.items() if name not in moved}
    errors = run.path.with_suffix(".errors")  # a pipe that nobody empties would stop the program
    logged = None
    began = time.perf_counter()
    with errors.open("w") as errors_file:
        process = subprocess.Popen(
            [sys.executable, "-m", "ccnet_jax.train", *words],
            cwd=run.path.parent,  # the user's runs/latest stays as it is
            env=environment | {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(cache)},
            stdout=subprocess.DEVNULL,
            stderr=errors_file,
        )
        while process.poll() is None:
            time.sleep(POLL_SECONDS)
            if logged is None and run.metrics_file.is_file() and run.metrics_file.stat().st_size:
                logged = time.perf_counter() - began
    if process.returncode or logged is None:
        end = errors.read_text().strip()[-500:]
        raise UserError(f"training ended with exit status {process.returncode}: {end}")
    return logged


def measured_round(config: str) -> dict[str, float]:
    """{start: seconds} of two starts that share a cache folder, which is empty before."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        return {
            start: seconds_to_first_step(config, RunFolder(folder / start), folder / "cache")
            for start in STARTS
        }


def tables(report: dict[str, Any]) -> dict[str, str]:
    """{"starts"}: Markdown, the medians of the rounds with their range, and the ratio of the medians."""
    seconds = {start: [row[start] for row in report["rounds"]] for start in STARTS}
    medians = {start: f"{statistics.median(times):.1f}" for start, times in seconds.items()}
    lines = [
        [
            f"{start} start",
            f"{medians[start]} ({min(times):.1f} to {max(times):.1f})",
            f"{markdown.ratio(medians['first'], medians[start]):.2f}x",
        ]
        for start, times in seconds.items()
    ]
    return {"starts": markdown.table([f"`{report['config']}`", "s to the first step", "speed"], lines)}


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=command_line.positive, default=3)
    arguments = parser.parse_args()
    report = result_head() | {"sources": sources("kernels", "ccnet_jax", "configs"), "config": CONFIG}
    report = resume_report(PATH, report | {"rounds": []}, ("rounds",))
    for _ in progress_bar(range(len(report["rounds"]), arguments.rounds), unit="round"):
        report["rounds"].append(measured_round(CONFIG))
        write_result(PATH, report)
    print(tables(report)["starts"])


if __name__ == "__main__":
    command_line.run(main)
