import os
import subprocess
import sys

import numpy as np
import pytest

from ccnet_jax.engine.folder import RunFolder
from experiments import soak


def test_a_slope_is_found_below_noise_and_its_error_says_how_sure_it_is():
    steps = np.arange(1000.0, 5000.0, 10)
    noise = np.random.default_rng(0).normal(0, 2, len(steps))
    rising, error = soak.slope(steps, 300 + 0.005 * steps + noise)
    assert rising == pytest.approx(5, abs=3 * error)
    assert error < 1
    flat, error = soak.slope(steps, 300 + noise)
    assert abs(flat) < 3 * error


def test_the_state_is_that_of_the_whole_tree_of_processes(tmp_path):
    run = RunFolder(tmp_path)
    run.checkpoints.mkdir()
    (run.checkpoints / "weights").write_bytes(bytes(2_000_000))
    alone = soak.state(os.getpid(), run)
    child = subprocess.Popen([sys.executable, "-c", "print('on', flush=True); input()"], stdin=-1, stdout=-1)
    child.stdout.readline()
    together = soak.state(os.getpid(), run)
    child.communicate(b"\n")
    assert alone["checkpoints"] == 2
    assert together["threads"] > alone["threads"]
    assert together["memory"] > alone["memory"]
    assert together["descriptors"] > alone["descriptors"]


def test_every_quantity_has_a_line():
    row = {"median": 1234.5, "slope": 0.01, "error": 0.02}
    saved = {"checkpoints": 2000, "seconds": 0.1234, "fraction": 0.05}
    tables = soak.tables({"quantities": dict.fromkeys(soak.QUANTITIES, row), "saving": saved})
    assert "| threads | 1234 | +0.01 ± 0.02 |" in tables["slopes"]
    assert len(tables["slopes"].splitlines()) == 2 + len(soak.QUANTITIES)
    assert tables["saving"].splitlines()[-1] == "| 2,000 | 0.123 | 5.0 |"


def test_saving_is_a_fraction_of_the_time_of_steps_and_standstills(monkeypatch):
    monkeypatch.setattr(soak, "SETTINGS", {"batch_size": 2, "eval_every": 30, "checkpoint_every": 20})
    steps = [
        {"step": 30, "images_per_second": 20.0, "save_seconds": 0.1},  # 3 s of steps
        {"step": 61, "images_per_second": 62.0, "save_seconds": 0.9},  # 1 s
    ]
    found = soak.saving(steps)
    assert found["checkpoints"] == 4  # after 20, 30, 40 and 60
    assert found["seconds"] == pytest.approx(0.25)
    assert found["fraction"] == pytest.approx(1 / 5)
