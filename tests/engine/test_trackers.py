"""Trackers get every value that metrics.jsonl gets, in one run of theirs, in their offline modes."""

import dataclasses
import json

import pytest

from ccnet_jax import train
from ccnet_jax.common.errors import UserError
from ccnet_jax.engine.callbacks import tracker
from ccnet_jax.engine.folder import RunFolder
from ccnet_jax.engine.stopping import StopSignal
from ccnet_jax.tasks.callbacks import TRACKERS
from tests.helpers import tiny_camvid

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("shared_programs", "tiny_backbone")]
SETTINGS = ("steps", "optimizer.learning_rate", "data.crop")


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    every = {"steps": 4, "log_every": 1, "eval_every": 4, "checkpoint_every": 2}
    return tiny_camvid(tmp_path, **every)


def records_of(data):
    """The records of a file as LevelDB's log has them: in blocks of 32 KB, in one part or several."""
    place, record = 7, b""  # behind the file's own header
    while place < len(data):
        if (left := 32768 - place % 32768) < 7:  # no room for the next part's header
            place += left
            continue
        length, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        record += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


def from_wandb(run):
    """({(step, name): value}, {setting: value}, names of its runs) of the files of wandb's offline runs."""
    from wandb.proto.wandb_internal_pb2 import Record

    values, settings, names = {}, {}, set()
    for path in sorted(run.path.glob("wandb/offline-run-*/run-*.wandb")):
        for data in records_of(path.read_bytes()):
            record = Record.FromString(data)
            found = {x.key or "/".join(x.nested_key): json.loads(x.value_json) for x in record.history.item}
            values |= {(found["step"], name): value for name, value in found.items() if name[0] not in "_"}
            settings |= {x.key: json.loads(x.value_json) for x in record.run.config.update}
            names |= {record.run.run_id} - {""}
    return values, settings, names


def from_mlflow(run):
    """The same of mlflow's folder."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{run.path}/mlflow.db")
    (found,) = client.search_runs([client.get_experiment_by_name("ccnet_jax").experiment_id])
    assert found.info.status == "FINISHED"
    values = {
        (point.step, name): point.value
        for name in found.data.metrics
        for point in client.get_metric_history(found.info.run_id, name)
    }
    return values, found.data.params, {found.info.run_id}


READERS = {"wandb": from_wandb, "mlflow": from_mlflow}


@pytest.mark.parametrize("name", READERS)
def test_a_run_that_was_stopped_is_one_run_with_all_values(name, config, tmp_path, monkeypatch):
    pytest.importorskip(TRACKERS[name].package)
    run = RunFolder(tmp_path / "run")
    config = dataclasses.replace(config, tracker=name)
    with monkeypatch.context() as patch:
        received = iter([0, 15])
        patch.setattr(StopSignal, "agreed_signal", lambda _: next(received))
        with pytest.raises(SystemExit):
            train.train(config, run)
    train.train(config, run)
    values, settings, names = READERS[name](run)
    wanted = {}
    for line in run.metrics_file.read_text().splitlines():
        line = json.loads(line)
        wanted |= {(line["step"], key): value for key, value in line.items() if key != "step"}
    assert any(key == "val/mIoU" for _, key in wanted)
    assert {key: values[key] for key in wanted} == pytest.approx(wanted)
    assert len(names) == 1
    assert set(SETTINGS) <= set(settings)
    assert set(json.loads(run.tracker_file.read_text())) == {name}
    assert {path.name for path in tmp_path.iterdir()} <= {"camvid", "run", "runs", "home"}


def test_a_tracker_that_is_not_installed_is_named(config, tmp_path, monkeypatch):
    monkeypatch.setattr(tracker.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"tracker=mlflow needs .* mlflow, .*: pip install 'ccnet_jax\[track\]'"
    ):
        train.train(dataclasses.replace(config, tracker="mlflow"), RunFolder(tmp_path / "run"))


def test_what_a_tracker_does_not_take_ends_nothing(config, tmp_path, monkeypatch, capsys):
    sent = []

    class Broken(tracker.Tracker):
        package = "json"

        def start(self, known):
            return "a name"

        def send(self, step, values):
            sent.append(step)
            raise ConnectionError("no network\nat all")

        def finish(self, is_whole):
            sent.append(is_whole)

    monkeypatch.setitem(TRACKERS, "wandb", Broken)
    train.train(dataclasses.replace(config, tracker="wandb"), RunFolder(tmp_path / "run"))
    assert sent == [1, 2, 3, 4, 4, True]
    assert "warning: json does not take a value (no network); it is left out" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["[]", "{"])
def test_a_corrupt_list_of_names_is_named(text, config, tmp_path):
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    run.tracker_file.write_text(text)
    with pytest.raises(UserError, match=r"tracker\.json .*remove it"):
        train.train(dataclasses.replace(config, tracker="mlflow"), run)
