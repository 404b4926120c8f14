"""Links in a folder that came from elsewhere: nothing is written, moved or removed where they lead.

Every path that a run and a prepared data set consist of is tried, as a link to a file or a folder outside.
"""

import dataclasses
import os
import shutil

import pytest

from ccnet_jax import prepare, train
from ccnet_jax.common.errors import UserError
from ccnet_jax.data.sources import Location
from ccnet_jax.engine.checkpoints import Checkpoints
from ccnet_jax.engine.folder import RunFolder
from ccnet_jax.engine.lock import Lock
from tests.helpers import TINY, load_config
from tests.miniatures import write_camvid

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("shared_programs", "tiny_backbone")]
LATER = ("lock", ".hidden", "wandb", "mlflow.db", "plugins", "checkpoints/corrupt", "images/val/new.png")


def contents(root):
    """{path: what stands there}, links as what they say."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        found[name] = (
            os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
        )
    return found


@pytest.fixture
def outside(tmp_path):
    folder = tmp_path / "outside"
    for name in ("2019/a.jpg", "2020/b.jpg", "3/variables/c.jpg"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text("a photograph")
    (folder / "letter.txt").write_text("a letter")
    return folder


def put_link(path, outside):
    """A link in place of what is there, and of the same kind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    is_folder = path.is_dir() or path.name in ("wandb", "plugins", "corrupt")
    if os.path.lexists(path):
        path.rename(path.with_name("kept")) if not path.is_dir() else shutil.rmtree(path)
    path.symlink_to(outside if is_folder else outside / "letter.txt")


def assert_refused(call, root, outside, words="leads out of that folder, to .*outside.*; remove that link"):
    before = contents(outside), contents(root)
    with pytest.raises(UserError, match=words):
        call()
    assert (contents(outside), contents(root)) == before


def test_no_path_of_a_run_leads_out_of_it(tmp_path, outside, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = load_config(
        "demo",
        **TINY,
        data__name="camvid",
        data__dir=str(write_camvid(tmp_path / "camvid", images=3)),
        data__crop=(48, 64),
        batch_size=2,
        steps=2,
        log_every=1,
        eval_every=2,
        checkpoint_every=1,
    )
    whole = tmp_path / "whole"
    train.train(config, RunFolder(whole))
    paths = [*contents(whole), *LATER]
    assert {"checkpoints/best", "checkpoints/last/2/variables", "metrics.jsonl", "images/val"} < set(paths)
    more = dataclasses.replace(config, steps=3)
    for number, name in enumerate(paths):
        if "/d/" in name:
            continue  # of arrays; their folders are tried
        run = RunFolder(tmp_path / f"run-{number}")
        shutil.copytree(whole, run.path)
        put_link(run.path / name, outside)
        words = {"words": "cannot be read as JSON"} if name in ("classes.json", "config.json") else {}
        assert_refused(lambda run=run: train.train(more, run), run.path, outside, **words)
        shutil.rmtree(run.path)


def test_a_link_that_comes_while_a_run_lasts_is_noticed_before_the_next_checkpoint(tmp_path, outside):
    path = tmp_path / "run" / "lock"
    with Lock(path) as lock:
        lock.check()
        (path.parent / "checkpoints").symlink_to(outside)
        assert_refused(lock.check, path.parent, outside)


def test_links_that_stay_inside_and_a_run_that_is_one_are_fine(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to("disk")
    (tmp_path / "disk" / "a").write_text("")
    (tmp_path / "disk" / "b").symlink_to("a")
    with Lock(RunFolder(tmp_path / "run").lock_file) as lock:
        lock.check()
        Checkpoints(RunFolder(tmp_path / "run")).__exit__(None, None, None)


@pytest.mark.parametrize("finished", [True, False])
def test_no_path_of_a_prepared_data_set_leads_out_of_it(tmp_path, outside, finished):
    location = Location(dir=str(write_camvid(tmp_path / "camvid", images=3)))
    whole = tmp_path / "whole"
    prepare.prepare("camvid", location, str(whole))
    if not finished:
        (whole / "camvid/1.0.0").rename(whole / "camvid/1.0.0.incomplete")
    for number, name in enumerate([*contents(whole), "camvid/1.0.0.lock"]):
        out = tmp_path / f"out-{number}"
        shutil.copytree(whole, out)
        put_link(out / name, outside)
        assert_refused(lambda out=out: prepare.prepare("camvid", location, str(out)), out, outside)
