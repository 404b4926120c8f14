import os
import subprocess
import sys

import numpy as np
import pytest

from ccnet_jax.run.folder import RunFolder
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
    table = soak.tables({"quantities": dict.fromkeys(soak.QUANTITIES, row)})["slopes"]
    assert "| threads | 1234 | +0.01 ± 0.02 |" in table
    assert len(table.splitlines()) == 2 + len(soak.QUANTITIES)
