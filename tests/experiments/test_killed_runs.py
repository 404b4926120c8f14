import json
import types

import numpy as np
import pytest

from ccnet_jax.engine.folder import RunFolder
from experiments import killed_runs
from tests.helpers import ran


@pytest.fixture
def run(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    run.path.with_suffix(".log").write_text("before\n")
    return run


def test_the_phase_is_read_from_the_files(run):
    def phase():
        return killed_runs.phase(run, len("before\n"), reached=2)

    def log(*lines):
        run.metrics_file.write_text("".join(json.dumps(line) + "\n" for line in lines))

    assert phase() == "start"
    with run.path.with_suffix(".log").open("a") as file:
        file.write("5 parameters, 1 of 1 devices\n")
    log({"step": 2})
    assert phase() == "compile"
    log({"step": 2}, {"step": 4})
    assert phase() == "step"
    (run.checkpoints / "last" / "8").mkdir(parents=True)
    assert phase() == "evaluation"
    log({"step": 8}, {"step": 8, "val/mIoU": 0.5})
    assert phase() == "step"
    (run.checkpoints / "last" / "9.orbax-checkpoint-tmp").mkdir()
    assert phase() == "save"
    (run.checkpoints / "last" / "40").mkdir()
    assert phase() == "end"
    assert killed_runs.fragments(run) == ["checkpoints/last/9.orbax-checkpoint-tmp"]


def test_differences_are_named():
    def records(weight, loss):
        weights = {which: ("8", {"w": np.array([weight])}) for which in ("last", "best")}
        return {"metrics": [loss], "points": [], "images": {}, "weights": weights}

    assert killed_runs.differences(records(1.0, 2), records(1.0, 2)) == []
    assert killed_runs.differences(records(1.0, 2), records(1.5, 3)) == [
        "metrics",
        "weights of last",
        "weights of best",
    ]


def test_the_table_counts_kills_and_equal_runs():
    row = {"kills": {"save": 2, "step": 1}, "processes_left": 0, "fragments": [], "exit_code": 0}
    rows = [row | {"differences": []}, row | {"differences": ["metrics"], "fragments": ["x.tmp"]}]
    line = killed_runs.tables({"rows": rows})["kills"].splitlines()[2]
    assert line == "| 2 | 6 | 0 | 0 | 2 | 4 | 0 | 0 | 1 of 2 | 1 |"


def test_a_campaign_begins_with_no_folder_of_an_earlier_one(tmp_path, monkeypatch):
    for name in ("undisturbed", "run-0-0"):
        (tmp_path / "killed" / name / "checkpoints").mkdir(parents=True)
        (tmp_path / "killed" / f"{name}.log").write_text("of an earlier campaign")
    met = []

    def started(run):
        met.append((run.path.name, run.path.exists(), run.path.with_suffix(".log").exists()))
        return types.SimpleNamespace(wait=lambda: 0)

    def disturbed(run, kills, rng):
        started(run)
        return {"kills": {}, "signals": {}, "processes_left": 0, "exit_code": 0, "fragments": []}

    monkeypatch.setattr(killed_runs, "PATH", tmp_path / "results.json")
    monkeypatch.setattr(killed_runs, "start", started)
    monkeypatch.setattr(killed_runs, "disturb", disturbed)
    monkeypatch.setattr(killed_runs, "records", lambda run: {"weights": {}})
    monkeypatch.setattr(killed_runs, "differences", lambda one, other: [])
    ran(monkeypatch, killed_runs, "--runs", 1, "--folder", tmp_path / "killed")
    assert met == [("undisturbed", False, False), ("run-0-0", False, False)]
