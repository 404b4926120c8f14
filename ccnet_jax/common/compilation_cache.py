"""JAX's compilation cache in the user's cache folder: a program that starts again need not compile again.

Loading from the cache runs code, so the folder must be the user's alone.
"""

import os
import pathlib
import shutil
import warnings

import jax

from ccnet_jax.common.log import say

LIMIT = 2**30  # bytes, of all entries together
# Below this much free space, in bytes, nothing is kept: entries would be cut off.
_FREE = 2**28
_SHORTEST = "jax_persistent_cache_min_compile_time_secs"
_SHORTEST_SECONDS = 0.1  # JAX's own, 1, leaves out most programs of a small network


def turn_on() -> None:
    """Keep what this process compiles for later ones. For programs alone, before they compile anything.

    Does nothing where the user has moved JAX's cache or turned it off, by JAX_COMPILATION_CACHE_DIR or
    JAX_ENABLE_COMPILATION_CACHE. Where the folder cannot be used, a warning says why.
    """
    chosen = jax.config.values
    if chosen["jax_compilation_cache_dir"] is not None or not chosen["jax_enable_compilation_cache"]:
        return
    try:
        folder = private(user_folder("compiled"))
        trim(folder, LIMIT)
    except (OSError, RuntimeError) as error:
        say(f"warning: compiled programs are not kept for the next start: {error}")
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    if _SHORTEST.upper() not in os.environ:
        jax.config.update(_SHORTEST, _SHORTEST_SECONDS)
    # a disk that fills up later costs the next start some time, and this one nothing
    warnings.filterwarnings("ignore", "Error writing persistent compilation cache entry")


def user_folder(name: str) -> pathlib.Path:
    """ccnet_jax/NAME in XDG_CACHE_HOME, by default ~/.cache.

    Raises RuntimeError where nothing says what the user's home is.
    """
    given = pathlib.Path(os.environ.get("XDG_CACHE_HOME", ""))
    root = given if given.is_absolute() else pathlib.Path.home() / ".cache"
    return root / "ccnet_jax" / name


def private(folder: pathlib.Path) -> pathlib.Path:
    """The folder, made if need be, which nobody but the user may read or write.

    Raises OSError where it cannot be written, belongs to another user, or others may have put files there.
    """
    folder.mkdir(0o700, parents=True, exist_ok=True)
    if hasattr(os, "getuid"):  # Windows has none, and keeps users' folders apart by itself
        status = folder.stat()
        if status.st_uid != os.getuid():
            raise OSError(f"{folder} belongs to another user; set XDG_CACHE_HOME to a folder of your own")
        if status.st_mode & 0o022:
            raise OSError(f"others may write into {folder}; delete it")
        folder.chmod(0o700)
    if not os.access(folder, os.W_OK):
        raise OSError(f"{folder} cannot be written")
    if (free := shutil.disk_usage(folder).free) < _FREE:
        raise OSError(f"the disk of {folder} has only {free // 2**20} MiB left")
    return folder


def trim(folder: pathlib.Path, limit: int) -> None:
    """Delete the files that were not used for the longest time, until all have at most `limit` bytes.

    JAX can do so itself, at each write and with one more package; but its version 0.10 stores nothing more
    once a process was killed between the two files of an entry.
    """
    files = [(path, path.stat()) for path in folder.rglob("*") if path.is_file()]
    files.sort(key=lambda file: max(file[1].st_atime, file[1].st_mtime), reverse=True)
    kept = 0
    for path, status in files:
        kept += status.st_size
        if kept > limit:
            path.unlink(missing_ok=True)
