"""Checksums of the files in a folder: what a disk, a copy or a hand has changed there is noticed.

They stand in the folder's SHA256SUMS; `sha256sum --check SHA256SUMS` checks them, too.
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
    write_whole(folder / SUMS, "".join(f"{digest(folder / name)}  {name}\n" for name in names))


def damage(folder: pathlib.Path) -> str | None:
    """What is wrong with the files below `folder`, in words that follow its name; None if nothing is.

    A folder with neither SHA256SUMS nor `progress`, as that of a converted backbone, is not checked.
    """
    sums = folder / SUMS
    if not sums.exists():
        return f"is incomplete: it has no {SUMS}" if (folder / "progress").is_dir() else None
    try:
        for line in read_file(sums).decode().splitlines():
            wanted, name = line.split("  ", 1)
            path = folder / name
            if not path.is_file():
                return f"lacks {name}"
            if digest(path) != wanted:
                return f"is corrupt: {name} is not what was written"
    except (OSError, ValueError) as error:
        return f"cannot be read ({error})"
    return None


def digest(path: pathlib.Path) -> str:
    """The SHA-256 of a file, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
