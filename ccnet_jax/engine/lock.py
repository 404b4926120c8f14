"""One live process a folder: a lock that names its holder, and that a dead holder does not keep.

Tried instead: `filelock` 4.3. Its lock of files does not say who holds it, and knows nothing of other hosts
where the file system has no `flock`; its lease (`SoftFileLease`) does, but a process that was killed keeps it
for its whole duration on its own host too, two minutes here instead of none.
"""

import contextlib
import fcntl
import os
import pathlib
from collections.abc import Iterator

import jax
import psutil

from ccnet_jax.common import devices
from ccnet_jax.common.errors import UserError, explain_write_errors
from ccnet_jax.engine.alive import DEAD_AFTER, HEARTBEAT, Holder, in_use_error, repeat, seconds_since
from ccnet_jax.engine.folder import RunFolder


@contextlib.contextmanager
def hold_lock(path: pathlib.Path, flag: str = "--workdir") -> Iterator[None]:
    """Hold the lock file `path`, which says host, process and time, until the end of the block.

    On one host the system knows whether the holder lives: it holds the file by `flock`, which ends with the
    process; or, on a file system without `flock`, there is a process of its number. Of a holder on another
    host, and of such a process, the file's time is the sign of life.

    Args:
      path: the file, in the folder that is locked.
      flag: which chooses another folder.

    Raises:
      UserError: another process holds it; the message says which.
    """
    with explain_write_errors(path, f"choose another {flag}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+")
    with file:
        has_locks = True
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise in_use_error(Holder.read(path.read_text()), path.parent, flag) from None
        except OSError:
            has_locks = False
        text, age = path.read_text(), seconds_since(path.stat().st_mtime)
        if _may_live(text, has_locks) and age < DEAD_AFTER:
            raise in_use_error(Holder.read(text), path.parent, flag, age)
        file.truncate(0)
        file.write(Holder.here().as_text())
        file.flush()
        with repeat(HEARTBEAT, lambda: _touch(file.fileno())):
            try:
                yield
            finally:
                file.truncate(0)  # held by nobody


@contextlib.contextmanager
def locked_for_all_hosts(run: RunFolder) -> Iterator[None]:
    """The run's folder locked, and mirrored where it is in a store, by the first host on behalf of all.

    Raises UserError, on every host, where another process holds it, or the store cannot be read.
    """
    with contextlib.ExitStack() as closing:
        problem = None
        if jax.process_index() == 0:
            try:
                closing.enter_context(hold_lock(run.lock_file))
                closing.enter_context(run.mirror())
            except UserError as error:
                problem = error
        if devices.as_first(problem is not None):
            raise problem or UserError(f"{run} is not free; the first host says why")
        yield


def _touch(descriptor: int) -> None:
    """Give the file the time of now."""
    with contextlib.suppress(OSError):
        os.utime(descriptor)


def _may_live(text: str, has_locks: bool) -> bool:
    """Whether the holder that a lock file names may live, though this process has got the file's lock."""
    if not text:
        return False
    holder = Holder.read(text)
    if holder is None or not holder.is_of_this_host:
        return True  # being written, corrupt, or of another host
    return not has_locks and psutil.pid_exists(holder.process)
