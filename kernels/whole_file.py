"""Files that are whole or not there at all."""

import contextlib
import os
import pathlib
import re
import tempfile
from collections.abc import Iterator

# Of the modes of new files. Read once, when the module is loaded: to read it is to change it for a moment.
UMASK = os.umask(0o077)
os.umask(UMASK)
_TEMPORARY = re.compile(r"\..+\.[a-z0-9_]{8}\.tmp", re.DOTALL)
_LONGEST = 50  # characters of a file's name that its temporary one repeats: names have at most 255 bytes


@contextlib.contextmanager
def whole_file(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yield a temporary file beside `path`; give it the name `path` when the block ends without an error.

    Nobody but the user can read or write the temporary file, or guess its name. The result has the mode of
    the file that it replaces, or the mode of any new file. The data are flushed to disk before the rename, so
    that a crash leaves the old file or the new one. Where `path` is a link, the file that it points to is
    replaced; a device, as /dev/null, is yielded itself.
    """
    path = path.resolve()
    if path.exists() and not path.is_file():
        yield path
        return
    handle, name = tempfile.mkstemp(prefix=f".{path.name[:_LONGEST]}.", suffix=".tmp", dir=path.parent)
    os.close(handle)
    temporary = pathlib.Path(name)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        with contextlib.suppress(OSError):  # some file systems have no modes
            temporary.chmod(path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~UMASK)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def fragments(folder: pathlib.Path) -> list[pathlib.Path]:
    """Temporary files of `whole_file` in a folder: of processes that write there, or were killed."""
    return [x for x in folder.glob(".*.tmp") if _TEMPORARY.fullmatch(x.name)] if folder.is_dir() else []


def write_whole(path: pathlib.Path, data: bytes | str) -> None:
    """Write `data` as the whole content of `path`."""
    with whole_file(path) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


def obstacle(path: pathlib.Path, folder: bool = False) -> str | None:
    """Why `path` cannot be written, to be known before hours of work; None where it can.

    It is tried in the folder that is there already, with a file that has no name: killed, it leaves nothing.

    Args:
      path: of a file, or of a folder for files; what lies above it need not exist.
      folder: which of the two.

    Returns:
      Words that follow the path in a message, for example "is a folder".
    """
    if re.match(r"[a-z][a-z0-9+]+:/", str(path)):
        return "is an address, and only files of this machine are written here"
    try:
        if folder and path.exists() and not path.is_dir():
            return "is a file"
        if not folder and path.is_dir():
            return "is a folder"
        if not folder and path.exists() and not path.is_file():
            return None  # a device
        above = next(x for x in ([path] if folder else []) + list(path.absolute().parents) if x.exists())
        if not above.is_dir():
            return f"lies below {above}, which is a file"
        with tempfile.TemporaryFile(dir=above):
            return None
    except OSError as error:
        return f"cannot be written ({error.strerror})"
