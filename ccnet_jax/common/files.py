"""Files that come from outside: only regular ones are opened."""

import errno
import os
import pathlib
import stat
import unicodedata

_KINDS = {
    stat.S_IFIFO: "FIFO",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
}


def check_regular(path: str | os.PathLike[str]) -> None:
    """Raise OSError where `path` is a FIFO, socket or device: to open it may last for ever."""
    kind = _KINDS.get(stat.S_IFMT(os.stat(path).st_mode))
    if kind is not None:
        raise OSError(errno.EINVAL, f"it is a {kind}, and no file", str(path))


def as_spelled(path: pathlib.Path) -> pathlib.Path:
    """The path, in that normal form of Unicode in which the file is there; a copy may have changed it."""
    if str(path).isascii() or path.exists():
        return path
    forms = (path.with_name(unicodedata.normalize(form, path.name)) for form in ("NFC", "NFD"))
    return next((form for form in forms if form.exists()), path)


def read_file(path: pathlib.Path) -> bytes:
    """What a regular file holds. Raises OSError where it cannot be read, or is another kind of file."""
    check_regular(path)
    return path.read_bytes()
