"""What it costs a step of several hosts that one of them may receive a signal, or have no batch.

    python -m experiments.stop_flag [--steps 20] [--rounds 15]

Two processes on this machine train the smallest network together, as in `ccnet_jax.train`. In every round
they make so many steps without asking, with the question that training asks after each step (see
`ccnet_jax.engine.hosts.agreement`), with this question and the mark by which a process without a batch lets
the step change nothing (`ccnet_jax.engine.missing_batch`), and with a flag that all processes gather after
each step, which is the usual way to stop. Writes experiments/results/stop_flag.json.
"""

import argparse
import json
import pathlib
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from ccnet_jax.common import devices
from ccnet_jax.common.errors import UserError
from ccnet_jax.common.progress import progress_bar
from ccnet_jax.config import command_line
from ccnet_jax.config.config import Config, parse
from ccnet_jax.config.config_files import ConfigName, load
from ccnet_jax.engine.hosts.config import HostsConfig
from ccnet_jax.engine.hosts.join import join_hosts
from ccnet_jax.engine.meter import BATCH_MISSING
from ccnet_jax.engine.missing_batch import unless_batch_missing
from ccnet_jax.tasks import TASKS
from ccnet_jax.training.optimizers import build_optimizer
from ccnet_jax.training.step import make_initial_state, make_train_step
from experiments import markdown
from kernels.bench.measure import ROOT, result_head, write_result

PATH = ROOT / "experiments" / "results" / "stop_flag.json"
WAYS = {
    "none": "no question",
    "question": "the question of `ccnet_jax.train`",
    "marked": "the question, and the mark of a missing batch",
    "gathered": "a flag gathered from all processes",
}
PROCESSES, CLASSES, SIDE, BATCH = 2, 5, 32, 2
QUESTIONS = 10_000  # asked without steps between them


def config() -> Config:
    """The smallest network."""
    return parse(load(ConfigName.of("demo")), {"model.width": "0.125", "model.context": "none"})


def measure(settings: HostsConfig, steps: int, rounds: int) -> dict[str, Any]:
    """{"seconds": {way: of a step, by round}, "question": seconds of a question alone}, in one process."""
    chosen = config()
    task = TASKS[chosen.task]
    with join_hosts(settings, {}) as link:
        mesh = devices.data_mesh()
        network = task.network(chosen, CLASSES)
        optimizer = build_optimizer(chosen.optimizer, chosen.steps, task.is_trained(chosen))
        state = make_initial_state(network, optimizer, chosen.seed, devices.replicated_sharding(mesh))()
        train_step = make_train_step(
            task.loss(chosen, network), optimizer, chosen.seed, wrap=unless_batch_missing
        )
        rng = np.random.default_rng(jax.process_index())
        images = rng.integers(0, 256, (BATCH // PROCESSES, SIDE, SIDE, 3), dtype=np.uint8)
        batch = devices.put_batch({"image": images, "label": images[..., 0] % CLASSES}, mesh)
        mark = devices.put_batch({BATCH_MISSING: np.zeros(len(images), bool)}, mesh)
        ask: dict[str, Callable[[], object]] = {
            "none": lambda: None,
            "question": lambda: link.stop_by(0),
            "marked": lambda: link.stop_by(0),
            "gathered": lambda: multihost_utils.process_allgather(np.int32(0)).any(),
        }

        def seconds_a_step(way: str) -> float:
            nonlocal state
            given = batch | mark if way == "marked" else batch
            began = time.perf_counter()
            for _ in range(steps):
                state, metrics = train_step(state, given)
                ask[way]()
                jax.block_until_ready(metrics)
            return (time.perf_counter() - began) / steps

        seconds: dict[str, list[float]] = {way: [] for way in WAYS}
        for number in progress_bar(range(-1, rounds), unit="round", disable=jax.process_index() != 0):
            # in another order each time, the same in both processes
            for way in random.Random(number).sample(list(WAYS), len(WAYS)):
                taken = seconds_a_step(way)
                if number >= 0:  # the first one compiles
                    seconds[way].append(taken)
        began = time.perf_counter()
        for _ in range(QUESTIONS):
            ask["question"]()
        return {"seconds": seconds, "question": (time.perf_counter() - began) / QUESTIONS}


def measured_in_processes(steps: int, rounds: int) -> dict[str, Any]:
    """`measure` by process 0 of two. Raises UserError where one fails."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        output = pathlib.Path(folder) / "measured.json"
        flags = [f"--steps={steps}", f"--rounds={rounds}", f"--coordinator=127.0.0.1:{port}"]
        processes = [
            subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "experiments.stop_flag",
                    *flags,
                    f"--process={n}",
                    f"--output={output}",
                ],
                cwd=ROOT,
                stdout=subprocess.DEVNULL,
            )
            for n in range(PROCESSES)
        ]
        try:
            codes = [process.wait() for process in processes]
        finally:
            for process in processes:
                process.kill()
        if any(codes):
            raise UserError(f"the processes ended with exit status {' and '.join(map(str, codes))}")
        return json.loads(output.read_text())


def tables(report: dict[str, Any]) -> dict[str, str]:
    """{"steps"}: Markdown, a line for each way to ask."""
    medians = {way: statistics.median(report["seconds"][way]) for way in WAYS}
    lines = []
    for way, words in WAYS.items():
        ratios = [x / y for x, y in zip(report["seconds"][way], report["seconds"]["none"], strict=True)]
        low, ratio, high = np.percentile(ratios, (25, 50, 75))
        lines.append([words, f"{1e3 * medians[way]:.3g}", f"{ratio:.3f} ({low:.3f} to {high:.3f})"])
    alone = [f"{WAYS['question']}, alone", f"{1e3 * report['question']:.2g}", ""]
    header = ["after each step", "ms a step", "time, median of the rounds (and middle half)"]
    return {"steps": markdown.table(header, [*lines, alone])}


def main() -> None:
    """The program, which also is what each process runs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=command_line.positive, default=20)
    parser.add_argument("--rounds", type=command_line.positive, default=15)
    parser.add_argument("--coordinator", help=argparse.SUPPRESS)
    parser.add_argument("--process", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--output", type=pathlib.Path, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.process is not None:
        place = HostsConfig(flags.coordinator, PROCESSES, flags.process)
        values = measure(place, flags.steps, flags.rounds)
        if flags.process == 0:
            flags.output.write_text(json.dumps(values))
        return
    values = measured_in_processes(flags.steps, flags.rounds)
    report = result_head() | {"steps": flags.steps} | values
    write_result(PATH, report)
    print(tables(report)["steps"])


if __name__ == "__main__":
    command_line.run(main)
