"""One live process a folder: a lock that names its holder, and that a dead holder does not keep.

Tried instead: `filelock` 4.3. Its lock of files does not say who holds it, and knows nothing of other hosts
where the file system has no `flock`; its lease (`SoftFileLease`) does, but a process that was killed keeps it
for its whole duration on its own host too, two minutes here instead of none.
"""

import contextlib
import fcntl
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import jax
import psutil

from ccnet_jax.common import devices, outputs
from ccnet_jax.common.errors import explain_write_errors
from ccnet_jax.common.files import check_regular
from ccnet_jax.common.log import say
from ccnet_jax.engine.alive import DEAD_AFTER, HEARTBEAT, Holder, in_use_error, repeat, seconds_since
from ccnet_jax.engine.folder import RunFolder


class Lock:
    """The lock file of a folder, which says host, process and time; held inside `with`.

    On one host the system knows whether the holder lives: it holds the file by `flock`, which ends with the
    process; or, on a file system without `flock`, there is a process of its number. Of a holder on another
    host, and of such a process, the file's time is the sign of life.

    Args:
      path: the file, in the folder that is locked.
      flag: which chooses another folder.
      named: the folder that the flag names, if it is one above: its links may not lead out of it, either.
      foreign: folders inside, in which other packages write, and make links.

    Raises:
      UserError: another process holds it; the message says which. Or a link in the folder leads out of it:
        then nothing was written.
    """

    def __init__(
        self,
        path: pathlib.Path,
        flag: str = "--workdir",
        named: pathlib.Path | None = None,
        foreign: Sequence[pathlib.Path] = (),
    ):
        self._path, self._flag = path, flag
        self._links = path.parent if named is None else named, path.parent, foreign

    def __enter__(self) -> "Lock":
        with contextlib.ExitStack() as closing:
            self._file = self._take()
            closing.callback(self._let_go)
            closing.enter_context(repeat(HEARTBEAT, lambda: _touch(self._file.fileno())))
            self._closing = closing.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._closing.close()

    def check(self) -> None:
        """Raise UserError where another process holds the folder, as somebody has removed the lock file.

        Where nobody does, the lock is taken again. Also raises it where a link has come that leads out.
        """
        outputs.check_links(self._flag, *self._links)
        if not self._path.parent.is_dir():
            return  # what is written next says so
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(self._file.fileno()), self._path.stat()):
                return
        old, self._file = self._file, self._take()
        old.close()
        say(f"warning: {self._path} was removed or replaced; it is made again")

    def _take(self) -> BinaryIO:
        """The file, opened and marked as this process's."""
        path, flag = self._path, self._flag
        outputs.check_links(flag, *self._links)
        with explain_write_errors(path, f"choose another {flag}"):
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists():
                check_regular(path)
            file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666), "r+b", buffering=0)
        with contextlib.ExitStack() as closing:
            closing.enter_context(file)
            has_locks = True
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise in_use_error(Holder.read(file.read()), path.parent, flag) from None
            except OSError:
                has_locks = False
            text, age = file.read(), seconds_since(os.fstat(file.fileno()).st_mtime)
            if _may_live(text, has_locks) and age < DEAD_AFTER:
                raise in_use_error(Holder.read(text), path.parent, flag, age)
            with explain_write_errors(path, f"make room, or choose another {flag}"):
                _write(file, Holder.here().as_text().encode())
            closing.pop_all()
        return file

    def _let_go(self) -> None:
        with self._file, contextlib.suppress(OSError):
            _write(self._file, b"")  # held by nobody


@contextlib.contextmanager
def locked_for_all_hosts(run: RunFolder) -> Iterator[Lock | None]:
    """The run's folder locked, and mirrored where it is in a store, by the first host on behalf of all.

    The block gets the lock, on the first host alone.

    Raises UserError, on every host, where another process holds it, or the store cannot be read.
    """
    with contextlib.ExitStack() as closing:
        lock = Lock(run.lock_file, foreign=[run.wandb_folder]) if jax.process_index() == 0 else None

        def begin() -> None:
            if lock is not None:
                closing.enter_context(lock)
                closing.enter_context(run.mirror())

        devices.check_as_first(begin, f"{run} is not free; the first host says why")
        yield lock


def _write(file: BinaryIO, text: bytes) -> None:
    """Make `text` all that an unbuffered file holds."""
    file.seek(0)
    file.truncate(0)
    file.write(text)


def _touch(descriptor: int) -> None:
    """Give the file the time of now."""
    with contextlib.suppress(OSError):
        os.utime(descriptor)


def _may_live(text: bytes, has_locks: bool) -> bool:
    """Whether the holder that a lock file names may live, though this process has got the file's lock."""
    if not text:
        return False
    holder = Holder.read(text)
    if holder is None or not holder.is_of_this_host:
        return True  # being written, corrupt, or of another host
    return not has_locks and psutil.pid_exists(holder.process)
