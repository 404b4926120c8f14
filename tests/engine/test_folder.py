"""The folder of a run: its paths, what worked on it, what is left in it."""

import contextlib
import json
import shutil

import jax
import pytest

from ccnet_jax.common.errors import UserError
from ccnet_jax.engine.folder import LATEST, RunFolder
from kernels.whole_file import whole_file


def test_the_folder_of_a_run(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    run = RunFolder.at("~/runs/a")
    assert run.path == tmp_path / "runs/a"
    assert str(run) == str(tmp_path / "runs/a")
    assert run.images("val-ms-flip") == run.path / "images/val-ms-flip"
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
    """Of a run in the folder of its data, whose images lie where a run has its own."""
    run, image = RunFolder(tmp_path), tmp_path / "images" / "val" / "0.png"
    image.parent.mkdir(parents=True)
    image.write_text("an image")
    run.check_results(run.own_files, [tmp_path / "elsewhere.png"])
    with pytest.raises(UserError, match=r"--workdir .* would replace .*images/val/0.png, which this program"):
        run.check_results(run.own_files, [image])
    image.unlink()
    image.parent.rmdir()
    (tmp_path / "images").rmdir()
    (tmp_path / "images").write_text("a file")
    with pytest.raises(UserError, match=r"images is no folder, and images are to lie there; move it away"):
        run.check_results([], [])


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path):
    run = RunFolder(tmp_path)
    images = run.images("val")
    images.mkdir(parents=True)
    kept = [images / "a.png", run.config_file, tmp_path / "notes.tmp", tmp_path / ".hidden.tmp"]
    for path in kept:
        path.write_text("x")
    left = []
    for path in (images / "b.png", run.config_file):
        with contextlib.suppress(KeyboardInterrupt), whole_file(path) as temporary:
            left.append(shutil.copy(temporary, temporary.with_name(f"{temporary.name[:-12]}abcd_123.tmp")))
            raise KeyboardInterrupt
    assert all(path.exists() for path in left)
    run.remove_fragments()
    assert not any(path.exists() for path in left)
    assert all(path.exists() for path in kept)
