import errno
import json
import os
import socket
import subprocess
import sys
import time

import pytest

from ccnet_jax.common.errors import UserError
from ccnet_jax.engine import lock
from ccnet_jax.engine.alive import DEAD_AFTER
from ccnet_jax.engine.lock import Lock
from tests.helpers import ROOT, wait_for

HOLDER = """
import pathlib, sys, time
from ccnet_jax.engine.lock import Lock
with Lock(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run" / "lock"


def test_a_live_holder_is_named_and_a_killed_one_keeps_nothing(path):
    command = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(UserError, match=rf"process {holder.pid} on .*, started 20.*, is at work in"):
            Lock(path).__enter__()
        holder.kill()
    with Lock(path):
        assert json.loads(path.read_text())["process"] == os.getpid()
        with pytest.raises(UserError, match=rf"process {os.getpid()} on"):
            Lock(path).__enter__()
    assert path.read_text() == ""
    with Lock(path):
        pass


def test_another_hosts_holder_counts_as_dead_without_a_sign_of_life(path):
    path.parent.mkdir()
    path.write_text(json.dumps({"host": "elsewhere", "process": 7, "since": "yesterday"}))
    with pytest.raises(UserError, match="process 7 on elsewhere, started yesterday, .*wait 120 s if it has"):
        Lock(path).__enter__()
    old = path.stat().st_mtime - DEAD_AFTER - 1
    os.utime(path, (old, old))
    with Lock(path):
        assert json.loads(path.read_text())["process"] == os.getpid()


def test_a_clock_that_went_back_makes_no_holder_dead(path, monkeypatch):
    path.parent.mkdir()
    path.write_text(json.dumps({"host": "elsewhere", "process": 7, "since": "tomorrow"}))
    monkeypatch.setattr(time, "time", lambda: path.stat().st_mtime - 10 * DEAD_AFTER)
    with pytest.raises(UserError, match=r"process 7 on elsewhere, .* its last sign of life is 0 s old"):
        Lock(path).__enter__()


def test_without_locks_of_files_a_live_process_of_this_host_keeps_another_out(path, monkeypatch):
    def unsupported(*_):
        raise OSError(errno.ENOTSUP, "no locks here")

    monkeypatch.setattr(lock.fcntl, "flock", unsupported)
    with Lock(path), pytest.raises(UserError, match=f"process {os.getpid()} on .* is at work in"):
        Lock(path).__enter__()
    monkeypatch.setattr(lock.psutil, "pid_exists", lambda number: number != 7)
    path.write_text(json.dumps({"host": socket.gethostname(), "process": 7, "since": "today"}))
    with Lock(path):
        assert json.loads(path.read_text())["process"] == os.getpid()


def test_a_holder_gives_signs_of_life(path, monkeypatch):
    monkeypatch.setattr(lock, "HEARTBEAT", 0.05)
    with Lock(path):
        os.utime(path, (0, 0))
        wait_for(lambda: path.stat().st_mtime > 0)


def test_where_no_folder_can_be_made_a_message_says_so(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written .*choose another --workdir"):
        Lock(tmp_path / "file" / "run" / "lock").__enter__()


def test_a_lock_that_is_removed_is_made_again_and_held(path, said):
    with Lock(path) as lock:
        lock.check()
        assert said() == []
        for remove in (path.unlink, lambda: path.unlink() or path.write_text("")):
            remove()
            lock.check()
            assert json.loads(path.read_text())["process"] == os.getpid()
            with pytest.raises(UserError, match=f"process {os.getpid()} on"):
                Lock(path).__enter__()
        assert len(said()) == 2
        assert all("lock was removed or replaced; it is made again" in line for line in said())
    assert path.read_text() == ""
    with Lock(path):
        pass


def test_a_holder_whose_lock_another_has_taken_is_told_and_touches_nothing(path):
    with Lock(path) as first:
        path.unlink()
        with Lock(path):
            kept = path.read_text()
            for _ in range(2):
                with pytest.raises(UserError, match=f"process {os.getpid()} on .* is at work in"):
                    first.check()
            assert path.read_text() == kept
        first.check()  # it is free again


@pytest.mark.parametrize(
    "content",
    [
        os.urandom(500),
        b"[1]",
        b"7",
        b"[" * 100_000,
        b'{"host": 5, "process": "x", "since": []}',
        b'{"process": 1e400}',
        b'{"host": "a", "process": -1, "since": ""}',
        b"\xff\xfe",
    ],
    ids=range(8),
)
def test_a_lock_of_any_content_is_one_message_or_an_old_one(path, content):
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(UserError, match="is at work in .*its last sign of life is"):
        Lock(path).__enter__()
    old = path.stat().st_mtime - DEAD_AFTER - 1
    os.utime(path, (old, old))
    with Lock(path):
        assert json.loads(path.read_text())["process"] == os.getpid()


def test_a_lock_that_is_no_file_is_not_opened(path):
    path.parent.mkdir()
    os.mkfifo(path)
    with pytest.raises(UserError, match="lock cannot be written .it is a FIFO, and no file"):
        Lock(path).__enter__()
