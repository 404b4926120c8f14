"""One live run a folder: a lock that names its holder, and that a dead holder does not keep."""

import contextlib
import fcntl
import json
import os
import pathlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

import jax
import psutil

from ccnet_jax.common import devices
from ccnet_jax.common.errors import UserError, explain_write_errors
from ccnet_jax.engine.folder import RunFolder

HEARTBEAT = 10.0  # seconds between two signs of life
DEAD_AFTER = 120.0  # seconds without one, after which another host's holder counts as dead


@contextlib.contextmanager
def hold_lock(path: pathlib.Path) -> Iterator[None]:
    """Hold the lock file `path`, which says host, process and time, until the end of the block.

    On one host the system knows whether the holder lives: it holds the file by `flock`, which ends with the
    process; or, on a file system without `flock`, there is a process of its number. Of a holder on another
    host, and of such a process, the file's time is the sign of life.

    Raises:
      UserError: another process holds it; the message says which.
    """
    with explain_write_errors(path, "choose another --workdir"):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+")
    with file:
        has_locks = True
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{_holder(path)} is at work in {path.parent}; {_REMEDY}") from None
        except OSError:
            has_locks = False
        if _may_live(path.read_text(), has_locks) and _age(path) < DEAD_AFTER:
            raise UserError(
                f"{_holder(path)} is at work in {path.parent}: its last sign of life is {_age(path):.0f} s "
                f"old; {_REMEDY}, or wait {DEAD_AFTER:.0f} s if it has died"
            )
        file.truncate(0)
        here = {"host": socket.gethostname(), "process": os.getpid()}
        file.write(json.dumps(here | {"since": time.strftime("%Y-%m-%d %H:%M:%S %z")}) + "\n")
        file.flush()
        ended = threading.Event()
        beating = threading.Thread(target=_beat, args=(file.fileno(), ended), daemon=True)
        beating.start()
        try:
            yield
        finally:
            ended.set()
            beating.join()
            file.truncate(0)  # held by nobody


@contextlib.contextmanager
def locked_for_all_hosts(run: RunFolder, tell: Callable[[str], None]) -> Iterator[None]:
    """The run's folder locked, and mirrored where it is in a store, by the first host on behalf of all.

    Raises UserError, on every host, where another process holds it, or the store cannot be read.
    """
    with contextlib.ExitStack() as closing:
        problem = None
        if jax.process_index() == 0:
            try:
                closing.enter_context(hold_lock(run.lock_file))
                closing.enter_context(run.mirror(tell))
            except UserError as error:
                problem = error
        if devices.as_first(problem is not None):
            raise problem or UserError(f"{run} is not free; the first host says why")
        yield


_REMEDY = "let it end, stop it, or choose another --workdir"


def _beat(descriptor: int, ended: threading.Event) -> None:
    """Give the file the time of now, again and again, until the end."""
    while not ended.wait(HEARTBEAT):
        with contextlib.suppress(OSError):
            os.utime(descriptor)


def _holder(path: pathlib.Path) -> str:
    """Who holds the lock, for a message."""
    try:
        told = json.loads(path.read_text())
        return f"process {told['process']} on {told['host']}, started {told['since']},"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def _may_live(text: str, has_locks: bool) -> bool:
    """Whether the holder that a lock file names may live, though this process has got the file's lock."""
    if not text:
        return False
    try:
        told = json.loads(text)
        if told["host"] != socket.gethostname():
            return True
        return not has_locks and psutil.pid_exists(told["process"])
    except (ValueError, KeyError, TypeError):
        return True  # being written, or corrupt


def _age(path: pathlib.Path) -> float:
    """Seconds since the last sign of life; a clock that went back makes it none."""
    return max(0.0, time.time() - path.stat().st_mtime)
