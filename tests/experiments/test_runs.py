import json

import pytest

from ccnet_jax.config import records
from ccnet_jax.engine.folder import RunFolder
from experiments import runs
from tests.helpers import load_config


@pytest.fixture
def run(tmp_path):
    """A run of three steps of two images."""
    folder = RunFolder(tmp_path)
    records.save_config(folder, load_config("demo", steps=3, batch_size=2))
    return folder


@pytest.fixture
def programs(monkeypatch):
    """The calls of programs, which do nothing."""
    calls = []
    monkeypatch.setattr(runs, "program", lambda *words: calls.append(words))
    return calls


def write_scores(run, name, step):
    run.scores_file(name).write_text(json.dumps({"step": step, "mIoU": 0.5}))


def test_only_scores_of_the_last_step_count(run, programs):
    assert not runs.is_scored(run, "val")
    write_scores(run, "val", step=2)
    assert not runs.is_scored(run, "val")
    write_scores(run, "val", step=3)
    assert runs.is_scored(run, "val")
    assert not runs.is_scored(run, "val", ms_flip=True)
    assert runs.scores(run, "val")["mIoU"] == 0.5
    assert programs == []


def test_scores_that_are_missing_or_old_are_made(run, programs):
    write_scores(run, "val-ms-flip", step=2)
    runs.scores(run, "val", ms_flip=True)
    assert programs == [("eval", f"--workdir={run.path}", "--split=val", "--ms-flip")]


def test_a_run_is_trained_by_its_config_and_changes(run, programs):
    runs.train(run, "demo", {"seed": 1, "model.context": "psp"})
    expected = ["--config=demo", f"--workdir={run.path}", "--config.seed=1", "--config.model.context=psp"]
    assert programs == [("train", *expected)]


def test_a_run_knows_the_commits_that_trained_it(run):
    run.versions_file.write_text(json.dumps([{"commit": name} for name in ("a", "a", "b")]))
    assert runs.trained_by(run) == "a+b"


def test_hours_are_those_of_the_logged_steps(run):
    lines = [{"step": 2, "images_per_second": 4}, {"step": 2, "val/mIoU": 0.5}]
    lines += [{"step": 3, "images_per_second": 0.5}]
    run.metrics_file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert runs.training_hours(run) * 3600 == pytest.approx(2 * 2 / 4 + 1 * 2 / 0.5)
