"""A file system that refuses: at every write of a short run, once or from then on."""

import errno
import os
import re
import subprocess
import sys
import threading

import pytest

from ccnet_jax import train
from ccnet_jax.common.errors import UserError
from ccnet_jax.engine.folder import RunFolder
from tests.helpers import ROOT, TINY_FLAGS, tiny_camvid
from tests.test_survival import assert_same

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("shared_programs", "tiny_backbone")]
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Disk:
    """What is opened for writing, made or renamed below a folder is counted; some of it fails.

    Attributes:
      folder: whose path begins with this; None for none.
      fails: number of a write -> whether it fails.
    """

    folder: str | None = None

    def __init__(self):
        self.count, self.fails = 0, lambda number: False
        sys.addaudithook(self._hook)

    def begin(self, folder, fails):
        self.count, self.fails, self.folder, self.paths = 0, fails, str(folder), []

    def _hook(self, event, arguments):
        if self.folder is None or event not in ("open", "os.mkdir", "os.rename"):
            return
        path = arguments[0]
        if not isinstance(path, str | bytes) or not os.fsdecode(path).startswith(self.folder):
            return
        if event == "open" and not (arguments[2] or 0) & _WRITING:
            return
        self.count += 1
        self.paths.append(
            (
                event,
                re.sub(r"\d+|[0-9a-f]{32}|\.[a-z0-9_]{8}\.tmp", "N", os.fsdecode(path)[len(self.folder) :]),
            )
        )
        if self.fails(self.count):
            raise OSError(errno.ENOSPC, "No space left on device", path)


DISK = Disk()  # a hook cannot be taken away


@pytest.fixture
def disk(monkeypatch):
    real = threading.Thread.start

    def start(
        thread,
    ):  # a failure leaves threads of Orbax that wait for minutes, see `command_line.orbax_waits`
        thread.daemon = thread.daemon or type(thread).__module__.startswith("orbax")
        real(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    yield DISK
    DISK.folder = None


def fragments(folder):
    return [path for path in folder.rglob("*") if path.name.endswith(".tmp") or "checkpoint-tmp" in path.name]


def test_every_write_that_fails_is_one_message_or_made_good(tmp_path, monkeypatch, disk):
    """The first write of each kind, and from then on; of Orbax's own, some."""
    monkeypatch.chdir(tmp_path)
    config = tiny_camvid(tmp_path, steps=2, log_every=1, eval_every=2, checkpoint_every=1)
    whole = RunFolder(tmp_path / "whole")
    disk.begin(whole.path, lambda number: False)
    train.train(config, whole)
    first = {what: number for number, what in reversed(list(enumerate(disk.paths, 1)))}
    own = sorted(number for (_, path), number in first.items() if "orbax" not in path)
    orbax = sorted(set(first.values()) - set(own))
    assert len(own) > 15
    assert len(orbax) > 15
    problems = []
    for number in own + orbax[::4]:
        run = RunFolder(tmp_path / f"run-{number}")
        disk.begin(run.path, lambda count, start=number: count >= start)
        what = next(kind for kind, place in first.items() if place == number)
        try:
            train.train(config, run)
            problems.append(f"{what}: nothing was said")
        except UserError as error:
            if "\n" in str(error):
                problems.append(f"{what}: {error}")
        except Exception as error:
            problems.append(f"{what}: {type(error).__name__} {error}")
        finally:
            disk.folder = None
        problems += [f"{what} left {path}" for path in fragments(run.path)]
        if number in own[::4]:
            train.train(config, run)
            assert_same(whole, run)
    assert not problems, "\n".join(problems)


PROGRAM = """if True:
    import resource, sys
    from ccnet_jax import train
    from ccnet_jax.config import command_line
    size = int(sys.argv.pop(1))
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    command_line.run(train.main)
"""


@pytest.mark.parametrize(("size", "words"), [(0, "lock cannot be written"), (60_000, "could not be written")])
def test_a_full_disk_is_one_message_of_the_program_which_ends(tmp_path, size, words):
    """Not one of hundreds, beside a traceback of each task of Orbax; nor does it wait for its threads."""
    flags = ["--config=demo", "--workdir=run", *TINY_FLAGS, "--config.steps=2", "--config.eval_every=0"]
    flags += ["--config.data.crop=48,64", "--config.batch_size=2", "--config.checkpoint_every=1"]
    variables = {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "XDG_CACHE_HOME": str(tmp_path)}
    command = [sys.executable, "-c", PROGRAM, str(size), *flags]
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | variables, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    (message,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert words in message
    assert len(done.stderr.splitlines()) < 20
    assert not fragments(tmp_path / "run")
