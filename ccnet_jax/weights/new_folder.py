"""A folder that is there when it is whole."""

import contextlib
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

from ccnet_jax.common.errors import UserError
from ccnet_jax.common.kernels import UMASK


@contextlib.contextmanager
def new_folder(out: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yield a temporary folder, the user's alone, that becomes `out` when the block ends without an error.

    Raises UserError where `out` is not empty, or cannot be made.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out {out} exists and is not empty; choose a new folder")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = pathlib.Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    except OSError as error:
        raise UserError(f"--out {out} cannot be made ({error.strerror}); choose another folder") from None
    try:
        yield folder
        folder.chmod(0o777 & ~UMASK)  # mkdtemp's are for their owner only
        folder.replace(out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
