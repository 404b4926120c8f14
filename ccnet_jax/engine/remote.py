"""Runs in an object store: gs://BUCKET/RUN, s3://BUCKET/RUN, and every other address that fsspec knows.

A run needs what such a store lacks: renaming, appending, locking. So a run is read and written in a folder of
the user's cache. At the start that folder is made what the store has; while the run goes on, and at its end,
the store is made what the folder has.

Tried instead: `fsspec.generic.rsync`. It copies in no order, so that a copy that is cut off looks like a
whole checkpoint, lists the whole store at each call, and fetches again what differs in its time alone.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import re
import time
from collections.abc import Iterable, Iterator
from typing import Any

from ccnet_jax.common.compilation_cache import private, user_folder
from ccnet_jax.common.errors import UserError, first_line
from ccnet_jax.common.kernels import whole_file, write_whole
from ccnet_jax.common.log import say
from ccnet_jax.common.progress import progress_bar
from ccnet_jax.engine.alive import DEAD_AFTER, HEARTBEAT, Holder, in_use_error, repeat, seconds_since
from ccnet_jax.engine.checksums import SUMS

LOCK = "lock"  # an object that says who is at work, and is written again as a sign of life
NOTES = ".in-store.json"  # of the copy: which of its files, as they were, are in the store
PERIOD = 15.0  # seconds between two looks at what has changed
RACE = 1.0  # seconds in which a second start at the same moment shows
_CHECKPOINT = re.compile(r"checkpoints/[^/]+/[^/]+")
_OWN = re.compile(r"(^|/)(\.[^/]*|lock)$|\.orbax-checkpoint-tmp")  # of this machine alone: never copied

State = tuple[int, int]  # of a local file: bytes, time of its last change in ns


def is_address(path: object) -> bool:
    """Whether a path names a place in a store, as gs://BUCKET/RUN does."""
    return "://" in str(path)


@dataclasses.dataclass(eq=False)
class Remote:
    """A run's folder in a store, and its copy here.

    Attributes:
      url: of the folder in the store.
      local: the copy.
    """

    url: str
    local: pathlib.Path
    _store: Any  # fsspec's file system
    _root: str  # the folder's path in it
    _here_now: Holder = dataclasses.field(default_factory=Holder.here)
    _same: dict[str, State] = dataclasses.field(default_factory=dict)  # local files that are in the store

    @classmethod
    def at(cls, url: str) -> "Remote":
        """The folder at `url`, which need not exist.

        Raises UserError where nothing here can read such an address, or the cache cannot be used.
        """
        import fsspec  # not above: it takes a third of a second

        url = url.rstrip("/")
        try:
            store, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
        except ImportError as error:
            raise UserError(f"{url} needs a package that is not installed: {error}") from None
        except Exception as error:  # of a store's own package
            raise UserError(f"{url} cannot be reached ({first_line(error)})") from None
        name = f"{url.rpartition('/')[2]}-{hashlib.sha256(url.encode()).hexdigest()[:16]}"
        try:
            local = private(user_folder("runs")) / name
            local.mkdir(exist_ok=True)
        except (OSError, RuntimeError) as error:
            raise UserError(f"{url} needs a copy here: {error}") from None
        return cls(url, local, store, root)

    # ------------------------------------------------------------- to and fro
    def fetch(self) -> None:
        """Make the copy what the folder in the store is.

        If the store has what this copy brought there, and the copy went on from there, the copy stays.

        Raises UserError where the store cannot be read, or a name there leads out of the folder.
        """
        stored = self._list_files()
        brought = self._read_note()
        if stored == {name: size for name, (size, _) in brought.items()} and _goes_on(self._here(), brought):
            self._same = brought
            return
        known = {x for x in stored if x.endswith(f"/{SUMS}") and self._reads(x) == _bytes(self.local / x)}
        sound = tuple(name.removesuffix(SUMS) for name in known)  # checkpoints that are here already
        wanted = [
            name
            for name, size in stored.items()
            if not (name.startswith(sound) and _size(self.local / name) == size)
        ]
        with progress_bar(
            total=sum(stored[name] for name in wanted),
            unit="B",
            unit_scale=True,
            desc="fetching",
            leave=False,
        ) as bar:
            for name in wanted:
                (self.local / name).parent.mkdir(parents=True, exist_ok=True)
                with whole_file(self.local / name) as temporary, self._explain_errors("read"):
                    self._store.get_file(self._path(name), str(temporary))
                bar.update(stored[name])
        for name in self._here():
            if name not in stored:
                (self.local / name).unlink(missing_ok=True)
        _remove_empty_folders(self.local)
        self._same = self._here()
        self._note()

    def push(self) -> bool:
        """Bring to the store what has changed here, and remove there what is gone here.

        At each moment the checkpoints there are whole, or are seen not to be: the files without which one is
        none come last.

        Returns:
          False where files were removed meanwhile, so that another call is needed.

        Raises:
          UserError: the store cannot be written; what is missing there is brought by the next call.
        """
        try:
            return self._push(self._here())
        finally:
            self._note()

    def _push(self, here: dict[str, State]) -> bool:
        for name in sorted((x for x in here if self._same.get(x) != here[x]), key=_rank):
            with self._explain_errors("written"):
                self._make_folder(name)
                try:
                    self._store.put_file(str(self.local / name), self._path(name))
                except FileNotFoundError:
                    if (self.local / name).exists():
                        raise
                    return False  # a checkpoint that was replaced by a newer one
            self._same[name] = here[name]
        for name in sorted(self._same.keys() - here.keys(), key=_rank, reverse=True):
            with self._explain_errors("written"), contextlib.suppress(FileNotFoundError):
                self._store.rm_file(self._path(name))
            del self._same[name]
        return True

    @contextlib.contextmanager
    def mirror(self) -> Iterator[None]:
        """The copy as the store has it; in the block, and at its end, the store follows the copy.

        Nobody else may do the same meanwhile. While the store cannot be written the block goes on, with a
        warning.

        Raises:
          UserError: another process is at work there, or the store cannot be read at the start, or written at
            the end.
        """
        self._claim()
        fetched = False  # before, nothing here may go to the store
        try:
            with repeat(HEARTBEAT, self._beat):
                self.fetch()
                fetched = True
                with repeat(PERIOD, self.push):
                    yield
        except BaseException as error:
            try:
                self._let_go(fetched)
            except UserError as other:
                if isinstance(error, SystemExit):  # as after SIGTERM: this is the only error
                    raise
                say(f"warning: {other}")
            raise
        self._let_go(fetched)

    def _let_go(self, push: bool) -> None:
        """Bring everything to the store if `push`, and say there that nobody is at work."""
        try:
            while push and not self.push():
                pass
        finally:
            with contextlib.suppress(Exception):  # without signs of life it counts for nothing soon
                self._store.rm_file(self._path(LOCK))

    # ------------------------------------------------------------------- lock
    def _claim(self) -> None:
        """Write to the store who works here now. Raises UserError where another one does.

        A holder of this host is dead: the lock of the copy would have kept this process out.
        """
        held = Holder.read(self._reads(LOCK) or b"")
        if held and not held.is_of_this_host and seconds_since(held.beat) < DEAD_AFTER:
            raise in_use_error(held, self.url, "--workdir", seconds_since(held.beat))
        self._beat()
        time.sleep(RACE)
        held = Holder.read(self._reads(LOCK) or b"")
        if held and held != self._here_now:
            raise in_use_error(held, self.url, "--workdir", seconds_since(held.beat))

    def _beat(self) -> None:
        with self._explain_errors("written"):
            self._make_folder(LOCK)
            self._store.pipe_file(self._path(LOCK), self._here_now.as_text().encode())

    # ----------------------------------------------------------------- helpers
    def _here(self) -> dict[str, State]:
        """{name: state} of the copy's files."""
        found = {}
        for folder, _, files in os.walk(self.local):  # which goes on where a folder is removed meanwhile
            for path in (pathlib.Path(folder, file) for file in files):
                name = path.relative_to(self.local).as_posix()
                if _OWN.search(name) is None:
                    with contextlib.suppress(FileNotFoundError):
                        status = path.stat()
                        found[name] = (status.st_size, status.st_mtime_ns)
        return found

    def _read_note(self) -> dict[str, State]:
        """The files that this copy brought to the store, as an earlier process noted; {} where it did not."""
        try:
            noted = json.loads((self.local / NOTES).read_text())
            return {name: (int(size), int(time)) for name, (size, time) in noted.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            return {}

    def _note(self) -> None:
        with contextlib.suppress(OSError):  # a full disk; then the next start fetches all
            write_whole(self.local / NOTES, json.dumps(self._same))

    def _list_files(self) -> dict[str, int]:
        """{name: bytes} of the files in the store."""
        with self._explain_errors("read"):
            found = self._store.find(self._root, detail=True)
        names = {}
        for path, facts in found.items():
            name = path.removeprefix(self._root).lstrip("/")
            if not name or name.endswith("/") or _OWN.search(name):
                continue  # a mark for the folder itself
            if ".." in name.split("/") or "\\" in name:
                raise UserError(f"{self.url} has a file {name!r}, which leads out of that folder; remove it")
            names[name] = int(facts["size"])
        return names

    def _reads(self, name: str) -> bytes | None:
        """What a small file in the store holds, None where there is none."""
        with self._explain_errors("read"):
            try:
                return self._store.cat_file(self._path(name))
            except FileNotFoundError:
                return None

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _make_folder(self, name: str) -> None:
        """The folder of a file, in a store that has folders."""
        with contextlib.suppress(Exception):  # one that has none may refuse; writing the file then says why
            self._store.makedirs(self._path(name).rpartition("/")[0], exist_ok=True)

    @contextlib.contextmanager
    def _explain_errors(self, done: str) -> Iterator[None]:
        """Inside, an error of the store becomes a UserError."""
        try:
            yield
        except Exception as error:  # every store has its own classes
            raise UserError(
                f"{self.url} cannot be {done} ({first_line(error)}); see that the address is right, and "
                "that this machine has access"
            ) from None


def _rank(name: str) -> tuple[str, int, str]:
    """What comes to the store first: files beside checkpoints, then a checkpoint after another.

    A checkpoint's checksums come after its files, and after them the files without which it is none.
    """
    end = name.rpartition("/")[2]
    return (_checkpoint(name), {SUMS: 1, "_METADATA": 2}.get(end, 0), name)


def _goes_on(here: Iterable[str], before: Iterable[str]) -> bool:
    """Whether there is a newer checkpoint than before, and nothing is gone but whole checkpoints."""
    here, before = set(here), set(before)
    folders = {_checkpoint(name) for name in here}
    return _newest(here) > _newest(before) and all(
        _checkpoint(name) and _checkpoint(name) not in folders for name in before - here
    )


def _checkpoint(name: str) -> str:
    """The folder of the checkpoint that a file belongs to, "" for other files."""
    found = _CHECKPOINT.match(name)
    return found[0] if found else ""


def _newest(names: Iterable[str]) -> int:
    """The step of the newest checkpoint among files, -1 where there is none."""
    steps = (_checkpoint(name).rpartition("/")[2] for name in names)
    return max((int(step) for step in steps if step.isdigit()), default=-1)


def _remove_empty_folders(root: pathlib.Path) -> None:
    """Where nothing is left: a step's folder without files would count as a corrupt checkpoint."""
    for path in sorted((x for x in root.rglob("*") if x.is_dir()), reverse=True):
        with contextlib.suppress(OSError):  # it has files
            path.rmdir()


def _bytes(path: pathlib.Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _size(path: pathlib.Path) -> int | None:
    return path.stat().st_size if path.is_file() else None
