import contextlib
import json
import pathlib
import shutil
import sys
import time

import fsspec
import jax
import numpy as np
import pytest

from ccnet_jax.common.errors import UserError
from ccnet_jax.engine import remote
from ccnet_jax.engine.checkpoints import Checkpoints, step_folder
from ccnet_jax.engine.folder import RunFolder
from kernels.whole_file import obstacle
from tests.engine.test_checkpoints import like, variables
from tests.helpers import wait_for


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Makes this another machine: one whose cache has no copy of any run."""

    def become(name):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / name))

    monkeypatch.setattr(remote, "RACE", 0)
    become("first")
    return become


@pytest.fixture
def url(tmp_path):
    yield f"memory:/{tmp_path}/run"
    with contextlib.suppress(FileNotFoundError):
        store().rm(f"{tmp_path}", recursive=True)


def store():
    return fsspec.filesystem("memory")


def names(url):
    root = url.removeprefix("memory:/")
    return sorted(path.removeprefix(f"{root}/") for path in store().find(root))


def saved(run, *steps):
    with Checkpoints(run) as checkpoints:
        for step in steps:
            checkpoints.save_last(step, variables(step), variables(-step), {"count": step})


def test_a_run_goes_to_the_store_and_comes_back_on_another_machine(url, machine):
    run = RunFolder.at(url)
    with run.mirror():
        saved(run, 2, 4, 6)
        run.metrics_file.write_text('{"step": 6}\n')
    assert str(run) == url
    assert "lock" not in names(url)
    assert "metrics.jsonl" in names(url)
    assert {name.split("/")[2] for name in names(url) if name.startswith("checkpoints/last")} == {"4", "6"}

    machine("second")
    other = RunFolder.at(url)
    assert other.path != run.path
    with Checkpoints(other) as checkpoints:
        found, _, progress = checkpoints.restore_last(like(variables(0)), like(variables(0)))
    jax.tree.map(np.testing.assert_array_equal, found, variables(6))
    assert progress == {"count": 6}

    with other.mirror():
        saved(other, 8)
        other.metrics_file.unlink()
    machine("first")  # whose copy is behind
    back = RunFolder.at(url)
    assert back.path == run.path
    assert Checkpoints.last_step(back) == 8
    assert sorted(path.name for path in (back.checkpoints / "last").iterdir()) == ["6", "8"]
    assert not back.metrics_file.exists()


def test_what_is_here_already_is_not_fetched_again(url, machine, monkeypatch):
    run = RunFolder.at(url)
    saved(run, 2, 4)
    run.push()
    fetched = []
    get = type(run.remote._store).get_file
    monkeypatch.setattr(
        type(run.remote._store),
        "get_file",
        lambda *given, **kw: fetched.append(given[1]) or get(*given, **kw),
    )
    RunFolder.at(url)
    assert fetched == []
    shutil.rmtree(run.checkpoints / "last" / "4" / "optimizer")
    RunFolder.at(url)
    assert fetched
    assert all("/last/4/optimizer/" in path for path in fetched)


@pytest.mark.parametrize("writes", [1, 5, 9, 13, 17])
def test_a_kill_at_any_moment_leaves_whole_checkpoints_in_the_store(writes, url, machine, monkeypatch):
    run = RunFolder.at(url)
    saved(run, 2)
    run.push()
    saved(run, 4, 6)  # 2 is removed here

    left = iter(range(writes))
    for name in ("put_file", "rm_file"):
        call = getattr(type(run.remote._store), name)

        def until_killed(*given, call=call, **kw):
            if next(left, None) is None:
                raise KeyboardInterrupt
            return call(*given, **kw)

        monkeypatch.setattr(type(run.remote._store), name, until_killed)
    with contextlib.suppress(KeyboardInterrupt):
        run.push()
    monkeypatch.undo()
    machine("second")
    other = RunFolder.at(url)
    sound = step_folder(other, "last")
    with Checkpoints(RunFolder(other.path)):
        pass  # Orbax can read what is there
    assert int(sound.name) in (2, 4, 6)
    assert (sound / "optimizer" / "_METADATA").exists()


def test_while_the_store_cannot_be_written_the_run_goes_on(url, machine, monkeypatch, said):
    monkeypatch.setattr(remote, "PERIOD", 0.01)
    run = RunFolder.at(url)

    def full(*_, **__):
        raise OSError("the quota is used up")

    with run.mirror():
        with monkeypatch.context() as patch:
            patch.setattr(type(run.remote._store), "put_file", full)
            run.metrics_file.write_text('{"step": 1}\n')
            wait_for(said)
        wait_for(lambda: "metrics.jsonl" in names(url))
    assert said() == [
        f"warning: {url} cannot be written (the quota is used up); see that the address is right, and that "
        "this machine has access; it is tried again every 0 s"
    ]
    monkeypatch.setattr(remote, "PERIOD", 1000.0)  # from here on it is written at the end only
    monkeypatch.setattr(type(run.remote._store), "put_file", full)
    with pytest.raises(UserError, match="quota is used up"), run.mirror():
        run.metrics_file.write_text('{"step": 2}\n')
    with contextlib.suppress(ZeroDivisionError), run.mirror():
        run.metrics_file.write_text('{"step": 3}\n')
        raise ZeroDivisionError  # which is what is said
    assert said()[1:] == [said()[0].removesuffix("; it is tried again every 0 s")]


def test_one_live_run_a_store(url, machine, monkeypatch):
    monkeypatch.setattr(remote, "HEARTBEAT", 0.01)
    run, lock = RunFolder.at(url), f"{url.removeprefix('memory:/')}/lock"
    other = {"host": "elsewhere", "process": 7, "since": "yesterday"}

    def beat(age):
        store().pipe_file(lock, json.dumps(other | {"beat": time.time() - age}).encode())

    beat(10)
    with pytest.raises(UserError, match="process 7 on elsewhere, started yesterday, is at work in memory:"):
        run.mirror().__enter__()
    beat(remote.DEAD_AFTER + 1)
    with run.mirror():
        first = json.loads(store().cat_file(lock))
        assert first["host"] != "elsewhere"
        wait_for(lambda: json.loads(store().cat_file(lock))["beat"] > first["beat"])
    assert not store().exists(lock)
    monkeypatch.setattr(time, "sleep", lambda _: beat(0))  # another one started in the same moment
    with pytest.raises(UserError, match="on elsewhere"):
        run.mirror().__enter__()


def test_what_the_store_did_not_take_stays_here_unless_another_machine_went_on(url, machine, monkeypatch):
    run = RunFolder.at(url)
    saved(run, 2)
    run.push()
    saved(run, 4)  # and the process is killed
    again = RunFolder.at(url)
    assert Checkpoints.last_step(again) == 4
    with again.mirror():
        pass
    machine("second")
    other = RunFolder.at(url)
    assert Checkpoints.last_step(other) == 4
    saved(other, 6)
    other.push()
    machine("first")
    saved(run, 8)
    assert Checkpoints.last_step(RunFolder.at(url)) == 6


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("nothing://bucket/run", "nothing://bucket/run cannot be reached .*not known"),
        ("s3://bucket/run", "s3://bucket/run needs a package that is not installed: .*s3fs"),
    ],
)
def test_addresses_that_cannot_be_read(address, message, machine, monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(UserError, match=message):
        RunFolder.at(address)


def test_a_name_in_the_store_does_not_lead_out_of_the_copy(url, machine, monkeypatch):
    run = RunFolder.at(url)
    root = run.remote._root
    monkeypatch.setattr(type(run.remote._store), "find", lambda *_, **__: {f"{root}/../../evil": {"size": 1}})
    with pytest.raises(UserError, match="has a file '../../evil', which leads out of that folder"):
        run.remote.fetch()


def test_a_store_is_left_alone_when_it_could_not_be_read(url, machine, monkeypatch):
    run = RunFolder.at(url)
    run.metrics_file.write_text("old")
    run.push()
    run.metrics_file.write_text("new")

    def fails(*_, **__):
        raise OSError("no connection")

    with monkeypatch.context() as patch:
        patch.setattr(type(run.remote._store), "find", fails)
        with pytest.raises(UserError, match="cannot be read .no connection"):
            run.mirror().__enter__()
    assert store().cat_file(f"{run.remote._root}/metrics.jsonl") == b"old"


def test_other_results_do_not_take_addresses():
    assert obstacle(pathlib.Path("gs://bucket/scores.json")) == (
        "is an address, and only files of this machine are written here"
    )
