"""Data workers through each fault, caused for real: the same batches follow, and nothing is left behind.

That they end with a parent that is killed, and survive the SIGTERM that reaches a whole run, is tested with a
run: `tests/test_programs.py`.
"""

import contextlib
import itertools
import multiprocessing
import os
import pickle
import signal
import threading

import grain.python as grain
import numpy as np
import psutil
import pytest

from ccnet_jax.common.errors import UserError
from ccnet_jax.data import workers
from ccnet_jax.data.workers import Workers

pytestmark = pytest.mark.slow


@pytest.fixture
def impatient(monkeypatch):
    """A stuck worker is noticed after three seconds, which is less than a worker takes to start here."""
    monkeypatch.setattr(workers, "STUCK_AFTER", 3.0)
    monkeypatch.setattr(workers, "_POLL", 0.2)


@contextlib.contextmanager
def every_worker_killed():
    """Inside, each worker of this process is killed soon after its start."""
    done = threading.Event()

    def kill():
        while not done.wait(0.01):
            for child in psutil.Process().children():
                with contextlib.suppress(psutil.NoSuchProcess):
                    if "spawn_main" in " ".join(child.cmdline()):
                        child.kill()

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def numbers(batches, count):
    """Of the next batches, each of which is larger than what a socket holds."""
    return [int(batch["x"][0, 0]) for batch in itertools.islice(batches, count)]


def test_workers_survive_what_reaches_them_or_are_replaced(impatient, capsys):
    before = set(multiprocessing.active_children())
    batches = Workers(grain.MapDataset.range(10**6).map(lambda i: {"x": np.full((2, 10**5), i)}), 2)
    one, two = sorted(set(multiprocessing.active_children()) - before, key=lambda process: process.pid)
    assert numbers(batches, 3) == [0, 1, 2]

    for process, number in itertools.product((one, two), (signal.SIGTERM, signal.SIGINT)):
        os.kill(process.pid, number)
    assert numbers(batches, 20) == list(range(3, 23))
    assert one.is_alive()
    assert two.is_alive()
    assert capsys.readouterr().err == ""

    os.kill(one.pid, signal.SIGKILL)
    assert numbers(batches, 9) == list(range(23, 32))
    said = capsys.readouterr().err
    assert said.startswith(f"warning: data worker 1 of 2 (process {one.pid}) was killed (SIGKILL), as the ")
    assert said.endswith("; another one makes the same batches\n")
    assert said.count("\n") == 1

    os.kill(two.pid, signal.SIGSTOP)
    assert numbers(batches, 9) == list(range(32, 41))
    said = capsys.readouterr().err
    assert said.startswith(f"warning: data worker 2 of 2 (process {two.pid}) has done nothing for 3 s; ")
    assert said.count("\n") == 1
    assert not two.is_alive()

    for process in set(multiprocessing.active_children()) - before:  # nothing that could stay behind
        maps = psutil.Process(process.pid).memory_maps()
        assert not [part.path for part in maps if part.path.startswith("/dev/shm")]

    words = (
        r"data worker . of 2 .process \d+. was killed .*, as did the 5 before it .*; free memory, or set --c"
    )
    with every_worker_killed(), pytest.raises(UserError, match=words):
        numbers(batches, 100)
    batches.close()
    assert set(multiprocessing.active_children()) <= before


def test_arrays_are_the_takers_own_and_an_error_is_that_of_the_data_set():
    def item(i):
        if i == 3:
            raise UserError("image 3 is corrupt")
        return {"x": np.full((2, 10**5), i), "y": np.arange(i % 3), "z": "text"}

    batches = Workers(grain.MapDataset.range(10**6).map(item), 1)
    taken = list(itertools.islice(batches, 3))
    for i, batch in enumerate(taken):
        assert batch["z"] == "text"
        np.testing.assert_array_equal(batch["y"], np.arange(i % 3))
        assert type(batch["x"]) is type(batch["y"]) is np.ndarray
        batch["x"] += 1
    assert [batch["x"].min() for batch in taken] == [1, 2, 3]
    with pytest.raises(UserError, match="^image 3 is corrupt$"):
        next(batches)
    batches.close()


def test_workers_that_cannot_be_started(monkeypatch):
    def no_more():
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(workers.socket, "socketpair", no_more)
    with pytest.raises(UserError, match="data worker 1 of 3 cannot be started .Too many open files.; set --"):
        Workers(grain.MapDataset.range(10), 3)


class Odd(Exception):
    def __init__(self, one, two):
        super().__init__(one + two)


@pytest.mark.parametrize(
    ("error", "kind"), [(ValueError("seven"), ValueError), (Odd("sev", "en"), RuntimeError)]
)
def test_errors_that_no_user_makes_say_where_they_were_raised(error, kind):
    try:
        raise error
    except Exception as raised:
        portable = pickle.loads(pickle.dumps(workers._portable(raised)))
    assert type(portable) is kind
    assert "seven" in str(portable)
    assert "test_workers.py" in "\n".join([str(portable), *getattr(portable, "__notes__", [])])
