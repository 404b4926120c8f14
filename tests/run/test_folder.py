"""The folder of a run: its paths, its config and classes, what worked on it."""

import json

import jax
import numpy as np
import pytest

from ccnet_jax.config import to_dict
from ccnet_jax.data.datasets.streets import Streets
from ccnet_jax.errors import UserError
from ccnet_jax.run.folder import LATEST, RunFolder
from tests.helpers import load_config


def test_the_folder_of_a_run(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    run = RunFolder.at("~/runs/a")
    assert run.path == tmp_path / "runs/a"
    assert str(run) == str(tmp_path / "runs/a")
    assert run.pictures("val-ms-flip") == run.path / "pictures/val-ms-flip"
    assert run.scores_file("val") == run.path / "eval-val.json"
    assert run.checkpoints == run.path / "checkpoints"
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file is a file; name the folder of a run"):
        RunFolder.at(tmp_path / "file")
    assert RunFolder.new("demo").path.parts[:1] == ("runs",)
    assert RunFolder.new("demo").path.name.startswith("demo-20")


def test_a_folder_without_a_config_is_no_run(tmp_path):
    with pytest.raises(UserError, match=r"is not a run: it has no config.json; train first"):
        RunFolder(tmp_path).load_config()
    with pytest.raises(UserError, match="is not a run"):
        RunFolder(tmp_path / "nowhere").load_config()


def test_classes_come_back(tmp_path):
    run, source = RunFolder(tmp_path / "new"), Streets("val")
    run.save_classes(source.classes, source.palette)
    classes = run.load_classes()
    assert classes.names == source.classes
    np.testing.assert_array_equal(classes.palette, source.palette)


def test_classes_of_a_run_from_before_they_were_kept_are_its_data_sets(tmp_path):
    run = RunFolder(tmp_path)
    run.save_config(load_config("cityscapes"))
    assert run.load_classes().names[:2] == ("road", "sidewalk")
    values = to_dict(load_config("cityscapes"))
    values["data"]["name"] = "mine"
    run.config_file.write_text(json.dumps(values))
    with pytest.raises(UserError, match=r"has no classes.json and mine names no classes; restore that file"):
        run.load_classes()


@pytest.mark.parametrize(
    "text", ["{", '{"classes": 3}', '{"classes": ["a"], "palette": [[0, 0, 999]]}', "[1]"]
)
def test_damaged_classes_are_named(text, tmp_path):
    (tmp_path / "classes.json").write_text(text)
    with pytest.raises(UserError, match=r"classes.json cannot be read.*restore it"):
        RunFolder(tmp_path).load_classes()


def test_every_start_notes_its_versions(tmp_path):
    run = RunFolder(tmp_path)
    run.add_versions()
    run.add_versions()
    entries = json.loads(run.versions_file.read_text())
    assert len(entries) == 2
    assert entries[0]["versions"]["jax"] == jax.__version__
    assert {"date", "command", "commit", "devices", "hosts", "ccnet_jax"} <= set(entries[0])


def test_latest_points_at_the_newest_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("runs/a", "elsewhere/b"):
        (tmp_path / name).mkdir(parents=True)
        RunFolder(tmp_path / name).point_latest()
        assert (tmp_path / LATEST).resolve() == tmp_path / name
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["a", "latest"]
