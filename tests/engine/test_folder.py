"""The folder of a run: its paths, its config and classes, what worked on it."""

import contextlib
import json
import shutil

import jax
import numpy as np
import pytest

from ccnet_jax.common.errors import UserError
from ccnet_jax.config.config import to_dict
from ccnet_jax.data.datasets.streets import Streets
from ccnet_jax.engine.folder import LATEST, RunFolder
from kernels.whole_file import whole_file
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
    with pytest.raises(
        UserError, match=f"file/a/b lies below {tmp_path}/file, which is a file; name the folder"
    ):
        RunFolder.at(tmp_path / "file" / "a" / "b")
    assert RunFolder.new("demo").path.parts[:1] == ("runs",)
    assert RunFolder.new("demo").path.name.startswith("demo-20")


def test_a_folder_without_a_config_is_no_run(tmp_path):
    with pytest.raises(UserError, match=r"is not a run: it has no config.json; train first"):
        RunFolder(tmp_path).load_config()
    with pytest.raises(UserError, match="is not a run"):
        RunFolder(tmp_path / "nowhere").load_config()


WHOLE = to_dict(load_config("demo"))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (
            {},
            "holds no config: it has none of the groups hosts, data, model, optimizer, loss, detection",
        ),
        ([1], r"holds no config, but \[1\]; restore that file"),
        (3, "holds no config, but 3; restore that file"),
        (None, "holds no config, but null; restore that file"),
        (WHOLE | {"model": "ccnet"}, "has as its group 'model' no keys, but \"ccnet\"; restore that file"),
        (WHOLE | {"steps": float("nan")}, "config.steps must be a whole number that is at least 1, not nan"),
        (
            WHOLE | {"optimizer": WHOLE["optimizer"] | {"learning_rate": float("inf")}},
            "config.optimizer.learning_rate must be a number that is above 0, not inf",
        ),
    ],
)
def test_a_damaged_config_is_one_sentence(tmp_path, value, words):
    run = RunFolder(tmp_path)
    run.config_file.write_text(json.dumps(value))
    for read in (run.load_config, lambda: run.check_same_run(load_config("demo"))):
        with pytest.raises(UserError, match=f"config.json:? {words}") as error:
            read()
        assert "\n" not in str(error.value)


def test_a_run_without_its_config_is_not_gone_on_with(tmp_path):
    with pytest.raises(
        UserError, match="has checkpoints but no config.json, which says of what; restore that"
    ):
        RunFolder(tmp_path).check_same_run(load_config("demo"))


def test_classes_come_back(tmp_path):
    run, source = RunFolder(tmp_path / "new"), Streets("val")
    run.save_classes(source.label_classes)
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
    "text",
    [
        "{",
        '{"classes": 3}',
        '{"classes": ["a"], "palette": [[0, 0, 999]]}',
        '{"classes": [1], "palette": [[0, 0, 9]]}',
        '{"classes": ["a", "b"], "palette": [[0, 0, 9]]}',
        "[1]",
        "[" * 100_000,
    ],
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


@pytest.mark.parametrize("in_the_way", ["runs", "runs/latest/", "runs/latest"])
def test_a_link_that_cannot_be_made_is_told_and_leaves_nothing(tmp_path, monkeypatch, capsys, in_the_way):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / in_the_way
    path.parent.mkdir(exist_ok=True)
    path.mkdir() if in_the_way.endswith("/") else path.write_text("mine")
    RunFolder(tmp_path / "a").point_latest()
    assert capsys.readouterr().err.startswith("warning: runs/latest does not point at this run (")
    assert [str(x.relative_to(tmp_path)) for x in sorted(tmp_path.rglob("*"))][-1] == str(
        path.relative_to(tmp_path)
    )


def test_results_of_a_run_never_replace_the_data(tmp_path):
    """Of a run in the folder of its data, whose pictures lie where a run has its own."""
    run, picture = RunFolder(tmp_path), tmp_path / "pictures" / "val" / "0.png"
    picture.parent.mkdir(parents=True)
    picture.write_text("a picture")
    run.check_results(run.own_files, [tmp_path / "elsewhere.png"])
    with pytest.raises(
        UserError, match=r"--workdir .* would replace .*pictures/val/0.png, which this program"
    ):
        run.check_results(run.own_files, [picture])
    picture.unlink()
    picture.parent.rmdir()
    (tmp_path / "pictures").rmdir()
    (tmp_path / "pictures").write_text("a file")
    with pytest.raises(
        UserError, match=r"pictures is no folder, and pictures are to lie there; move it away"
    ):
        run.check_results([], [])


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path):
    run = RunFolder(tmp_path)
    pictures = run.pictures("val")
    pictures.mkdir(parents=True)
    kept = [pictures / "a.png", run.config_file, tmp_path / "notes.tmp", tmp_path / ".hidden.tmp"]
    for path in kept:
        path.write_text("x")
    left = []
    for path in (pictures / "b.png", run.config_file):
        with contextlib.suppress(KeyboardInterrupt), whole_file(path) as temporary:
            left.append(shutil.copy(temporary, temporary.with_name(f"{temporary.name[:-12]}abcd_123.tmp")))
            raise KeyboardInterrupt
    assert all(path.exists() for path in left)
    run.remove_fragments()
    assert not any(path.exists() for path in left)
    assert all(path.exists() for path in kept)
