"""Checksums of the files in a folder: what a disk, a copy or a hand has changed there is noticed.

They stand in the folder's SHA256SUMS, whose last line is the checksum of the lines above; a list that was
emptied or cut off is noticed so. `sha256sum --check SHA256SUMS` checks the files, too.
"""

import hashlib
import pathlib

from ccnet_jax.common.files import read_file
from ccnet_jax.common.kernels import write_whole

SUMS = "SHA256SUMS"
_LATER = ("_CHECKPOINT_METADATA",)  # which Orbax completes when it gives the folder its name


def seal(folder: pathlib.Path) -> None:
    """Write SHA256SUMS for all files below `folder`."""
    names = sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in (SUMS, *_LATER)
    )
    lines = "".join(f"{digest(folder / name)}  {name}\n" for name in names)
    write_whole(folder / SUMS, lines + _last_line(lines))


def damage(folder: pathlib.Path) -> str | None:
    """What is wrong with the files below `folder`, in words that follow its name; None if nothing is."""
    sums = folder / SUMS
    if not sums.exists():
        return f"is incomplete: it has no {SUMS}"
    try:
        *lines, last = read_file(sums).decode(errors="replace").splitlines(keepends=True) or [""]
        if last != _last_line("".join(lines)):
            return f"is corrupt: {SUMS} is not what was written"
        for line in lines:
            wanted, name = line.rstrip("\n").split("  ", 1)
            path = folder / name
            if not path.is_file():
                return f"lacks {name}"
            if digest(path) != wanted:
                return f"is corrupt: {name} is not what was written"
    except (OSError, ValueError) as error:
        return f"cannot be read ({error})"
    return None


def _last_line(lines: str) -> str:
    """What vouches for the lines of a list; `sha256sum` takes it for a comment."""
    return f"# {hashlib.sha256(lines.encode()).hexdigest()}  the lines above\n"


def digest(path: pathlib.Path) -> str:
    """The SHA-256 of a file, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
