"""Checkpoints of a small tree of arrays, corrupt in every way; `tests/test_train.py` trains from them."""

import os
import re
import shutil
import subprocess
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccnet_jax.common.errors import UserError
from ccnet_jax.engine.checkpoints import (
    Checkpoints,
    OneHostFailed,
    load_variables,
    save_variables,
    set_corrupt_aside,
    step_folder,
)
from ccnet_jax.engine.checksums import SUMS, damage, seal
from ccnet_jax.engine.folder import RunFolder
from tests.helpers import small_files_only

pytestmark = pytest.mark.slow


def variables(step):
    return {"params": {"w": jnp.arange(3000.0) + step}}


def buffers(step):
    return {"momentum": jnp.full(3000, step, jnp.float32)}


def like(tree):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)


@pytest.fixture
def run(tmp_path):
    """A run whose last checkpoints are of steps 4 and 6; the best of step 4."""
    run = RunFolder(tmp_path / "run")
    with Checkpoints(run) as checkpoints:
        for step in (2, 4, 6):
            checkpoints.save_last(step, variables(step), buffers(step), {"count": step})
        checkpoints.save_best(4, variables(4), 0.5)
    return run


def restored(run):
    """(step, variables, buffers, progress) of the newest sound checkpoint, and what was told."""
    told = list(set_corrupt_aside(run))
    with Checkpoints(run) as checkpoints:
        return (
            checkpoints.latest_step(),
            *checkpoints.restore_last(like(variables(0)), like(buffers(0))),
            told,
        )


def assert_is(found, step):
    at, params, optimizer, progress, _ = found
    assert at == step
    np.testing.assert_array_equal(params["params"]["w"], variables(step)["params"]["w"])
    np.testing.assert_array_equal(optimizer["momentum"], buffers(step)["momentum"])
    assert progress == {"count": step}


def largest_file(folder):
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def flip_a_bit(folder):
    path = largest_file(folder / "variables")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def truncate(folder):
    path = largest_file(folder / "optimizer")
    path.write_bytes(path.read_bytes()[:-1])


def remove(name):
    return lambda folder: shutil.rmtree(folder / name)


def empty(folder):
    shutil.rmtree(folder)
    folder.mkdir()


DAMAGE = {
    "a flipped bit": (flip_a_bit, "is corrupt: variables/.* is not what was written"),
    "a cut file": (truncate, "is corrupt: optimizer/.* is not what was written"),
    "no optimizer": (remove("optimizer"), "is incomplete: it has no optimizer"),
    "no progress": (remove("progress"), "lacks progress/"),
    "no metadata": (lambda folder: (folder / "variables" / "_METADATA").unlink(), "it has no variables"),
    "an empty folder": (empty, "is incomplete: it has no variables"),
}


def test_the_newest_are_kept_with_what_training_knows(run):
    assert sorted(path.name for path in (run.checkpoints / "last").iterdir()) == ["4", "6"]
    assert_is(restored(run), 6)


def test_multiples_of_keep_every_stay(tmp_path):
    with Checkpoints(RunFolder(tmp_path), keep=1, keep_every=4) as checkpoints:
        for step in range(1, 7):
            checkpoints.save_last(step, variables(step), buffers(step))
    assert sorted(path.name for path in (tmp_path / "checkpoints" / "last").iterdir()) == ["4", "6"]


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_corrupt_one_is_set_aside_and_the_one_before_is_taken(run, kind):
    damage, words = DAMAGE[kind]
    damage(run.checkpoints / "last" / "6")
    found = restored(run)
    assert_is(found, 4)
    (message,) = found[-1]
    assert message.startswith(f"{run.checkpoints}/last/6 ")
    assert re.search(words, message)
    assert message.endswith(f"it is set aside as {run.checkpoints}/corrupt/last-6-1")
    assert (run.checkpoints / "corrupt" / "last-6-1").is_dir()
    with Checkpoints(run) as checkpoints:  # the run goes on, and may come to step 6 again
        checkpoints.save_last(6, variables(6), buffers(6), {"count": 6})
    assert_is(restored(run), 6)


def test_with_none_left_nothing_begins_from_zero(run):
    for step in (4, 6):
        flip_a_bit(run.checkpoints / "last" / str(step))
    for _ in range(2):
        with pytest.raises(UserError, match="no checkpoint of .* can be read; restore one from a copy"):
            list(set_corrupt_aside(run))
    assert len(list((run.checkpoints / "corrupt").iterdir())) == 2


def test_reading_programs_tell_of_damage_and_move_nothing(run, capsys):
    flip_a_bit(run.checkpoints / "last" / "6")
    flip_a_bit(run.checkpoints / "best" / "4")
    assert load_variables(run, "last", like(variables(0)))[1] == 4
    assert "last/6 is corrupt: variables/" in capsys.readouterr().err
    for which in ("best", str(run.checkpoints / "last" / "6")):
        with pytest.raises(UserError, match=r"is corrupt: variables/.*; name another with --checkpoint"):
            step_folder(run, which)
    assert (run.checkpoints / "last" / "6").is_dir()


def test_one_whose_checksums_are_gone_is_incomplete(run):
    (run.checkpoints / "last" / "6" / SUMS).unlink()
    found = restored(run)
    assert_is(found, 4)
    assert "last/6 is incomplete: it has no SHA256SUMS" in found[-1][0]


@pytest.mark.parametrize("which", ["last", "best"])
@pytest.mark.parametrize(
    "harm",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:300]),
        lambda path: path.write_bytes(b"".join(path.read_bytes().splitlines(True)[:2])),
        lambda path: path.write_bytes(b"".join(path.read_bytes().splitlines(True)[1:])),
        lambda path: path.unlink(),
        lambda path: path.write_bytes(os.urandom(1000)),
    ],
    ids=["emptied", "cut", "two lines", "without the first", "removed", "random"],
)
def test_a_list_of_checksums_knows_that_it_is_whole(run, which, harm):
    """Also of `best`, and with nothing else corrupt."""
    step = {"last": 6, "best": 4}[which]
    folder = run.checkpoints / which / str(step)
    assert damage(folder) is None
    harm(folder / SUMS)
    assert SUMS in damage(folder)
    with pytest.raises(UserError, match=SUMS):
        step_folder(run, str(folder))


def test_sha256sum_checks_the_files_too(run):
    folder = run.checkpoints / "last" / "6"
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", SUMS], cwd=folder, check=True)


def test_variables_alone_are_sealed(tmp_path):
    save_variables(tmp_path, variables(1))
    assert damage(tmp_path) is None
    flip_a_bit(tmp_path)
    assert "is corrupt" in damage(tmp_path)


@pytest.mark.parametrize("harm", [lambda path: path.write_bytes(b""), lambda path: path.unlink()])
@pytest.mark.parametrize("name", ["_METADATA", "manifest.ocdbt"])
def test_one_that_cannot_be_read_gets_one_short_message(run, name, harm):
    folder = run.checkpoints / "best" / "4"
    harm(folder / "variables" / name)
    seal(folder)
    with pytest.raises(UserError, match="best/4 is .*name another with --checkpoint") as error:
        load_variables(run, "best", like(variables(0)))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600


def save_and_finish(checkpoints, step):
    checkpoints.save_last(step, variables(step), buffers(step), {"count": step})
    checkpoints.finish()


def wait_until_saved(checkpoints):
    for _ in range(1000):
        if not checkpoints._managers["last"].is_saving_in_progress():
            return
        time.sleep(0.02)


def test_a_write_that_fails_is_noticed_without_a_wait_for_it(run):
    with Checkpoints(run) as checkpoints:
        checkpoints.check()
        with small_files_only():
            checkpoints.save_last(8, variables(8), buffers(8), {"count": 8})
            wait_until_saved(checkpoints)
            with pytest.raises(UserError, match="could not be written"):
                checkpoints.check()
        checkpoints.check()  # it is told once
        assert sorted(path.name for path in (run.checkpoints / "last").iterdir()) == ["4", "6"]


def test_a_write_that_failed_is_made_good_by_the_next_of_the_same_step(run, monkeypatch):
    with Checkpoints(run) as checkpoints:
        with small_files_only():
            checkpoints.save_last(8, variables(8), buffers(8), {"count": 8})
            wait_until_saved(checkpoints)
        usage, free = shutil.disk_usage, lambda path: any((run.checkpoints / "last").glob("*tmp*"))
        monkeypatch.setattr(
            shutil, "disk_usage", lambda p: usage(p)._replace(free=0) if free(p) else usage(p)
        )
        save_and_finish(checkpoints, 8)  # when the fragment is gone there is room
    assert_is(restored(run), 8)


def test_a_full_disk_loses_nothing_and_leaves_no_fragments(run, monkeypatch):
    with Checkpoints(run) as checkpoints:
        with (
            small_files_only(),
            pytest.raises(UserError, match=r"could not be written to .*File too large.*GB are free"),
        ):
            save_and_finish(checkpoints, 8)
        assert sorted(path.name for path in (run.checkpoints / "last").iterdir()) == ["4", "6"]
        checkpoints.check()
        checkpoints.save_last(9, variables(9), buffers(9), {"count": 9})
    assert_is(restored(run), 9)

    free = shutil.disk_usage(run.path)._replace(free=5)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    words = r"2.4e-05 GB does not fit into .*, where 5e-09 GB are free"
    with Checkpoints(run) as checkpoints, pytest.raises(UserError, match=words):
        checkpoints.save_last(10, variables(10), buffers(10))


def test_a_removed_folder_is_told(run):
    with Checkpoints(run) as checkpoints:
        shutil.rmtree(run.path)
        with pytest.raises(UserError, match="has been removed"):  # also while something is being written
            checkpoints._call_orbax("last", lambda _: run.path.iterdir().__next__())
        checkpoints.check()  # after every step: what is told is told when a checkpoint is due
        with pytest.raises(UserError, match="has been removed"):
            checkpoints.save_last(8, variables(8), buffers(8))
        run.checkpoints.mkdir(parents=True)
        checkpoints.save_last(6, variables(6), buffers(6), {"count": 6})  # which was there before
    assert_is(restored(run), 6)


@pytest.mark.parametrize(
    ("words", "kind"),
    [("No space left on device", OneHostFailed), ("Gloo AllGather failed: closed by peer", RuntimeError)],
)
def test_of_several_hosts_one_that_cannot_write_is_told_from_one_that_is_lost(run, words, kind, monkeypatch):
    with Checkpoints(run) as checkpoints, monkeypatch.context() as patch:
        patch.setattr(jax, "process_count", lambda: 2)

        def fail(_):
            raise RuntimeError(words)

        with pytest.raises(kind, match=words):
            checkpoints._call_orbax("last", fail)


def test_a_file_in_place_of_the_folder_is_told(tmp_path):
    (tmp_path / "checkpoints").touch()
    with pytest.raises(
        UserError,
        match=r"checkpoints cannot be written \(File exists|Not a directory\); choose another --workdir",
    ):
        Checkpoints(RunFolder(tmp_path))
