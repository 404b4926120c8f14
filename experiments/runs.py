"""Runs of the programs inside experiments: trained and scored once, read from their folders afterwards."""

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from ccnet_jax.common.progress import progress_bar
from ccnet_jax.config import records
from ccnet_jax.engine.folder import RunFolder
from kernels.bench.measure import ROOT

Cell = tuple[str, int]  # what is compared, and the seed


def program(name: str, *arguments: str) -> None:
    """Run `python -m ccnet_jax.NAME` in the repository, as a user would."""
    subprocess.run([sys.executable, "-m", f"ccnet_jax.{name}", *arguments], cwd=ROOT, check=True)


def train(run: RunFolder, config: str, changes: dict[str, Any]) -> None:
    """Train to the end, from the last checkpoint where there is one.

    Args:
      run: its folder.
      config: NAME or NAME:VARIANT.
      changes: {key: value} of the config.
    """
    overrides = [f"--config.{key}={value}" for key, value in changes.items()]
    program("train", f"--config={config}", f"--workdir={run.path}", *overrides)


def scores(run: RunFolder, split: str, ms_flip: bool = False) -> dict[str, Any]:
    """What `eval` says of the last checkpoint; it is not run again where its file is of that checkpoint."""
    file = run.scores_file(f"{split}-ms-flip" if ms_flip else split)
    if not is_scored(run, split, ms_flip):
        program("eval", f"--workdir={run.path}", f"--split={split}", *["--ms-flip"] * ms_flip)
    return json.loads(file.read_text())


def measured_rows(
    cells: list[Cell],
    run_of: Callable[[Cell], RunFolder],
    is_finished: Callable[[RunFolder], bool],
    measured: Callable[[Cell, RunFolder], dict[str, Any]],
) -> list[dict[str, Any]]:
    """The rows of all cells, in their order.

    Those that are finished are read first, so that the bar has the rate of the rest; these are made seed by
    seed.
    """
    finished = {cell: is_finished(run_of(cell)) for cell in cells}
    rows: dict[Cell, dict[str, Any]] = {}
    with progress_bar(total=len(cells), initial=sum(finished.values()), unit="network") as bar:
        for cell in sorted(cells, key=lambda cell: (not finished[cell], cell[1])):
            rows[cell] = measured(cell, run_of(cell))
            bar.update(int(not finished[cell]))
    return [rows[cell] for cell in cells]


def is_scored(run: RunFolder, split: str, ms_flip: bool = False) -> bool:
    """Whether the run is trained to the end, and the file with the scores of its last checkpoint is there."""
    file = run.scores_file(f"{split}-ms-flip" if ms_flip else split)
    return file.is_file() and json.loads(file.read_text())["step"] == records.load_config(run).steps


def trained_by(run: RunFolder) -> str:
    """The commits that trained the run, joined by "+"."""
    starts = json.loads(run.versions_file.read_text())
    return "+".join(dict.fromkeys(str(start["commit"]) for start in starts))


def training_hours(run: RunFolder) -> float:
    """The time that the run's steps took, without compilation, validation and checkpoints."""
    config, hours, before = records.load_config(run), 0.0, 0
    for line in run.metrics_file.read_text().splitlines():
        values = json.loads(line)
        if "images_per_second" in values:
            images = config.batch_size * (values["step"] - before)
            hours, before = hours + images / values["images_per_second"] / 3600, values["step"]
    return hours
