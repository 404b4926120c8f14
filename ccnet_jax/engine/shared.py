"""Whether several processes see the same run folder."""

import os
import time

import jax
import numpy as np
from jax.experimental import multihost_utils

from ccnet_jax.common.errors import UserError, write_whole
from ccnet_jax.engine.folder import RunFolder

TIMEOUT = 60  # seconds in which a network's file system shows a new file on all hosts


def check_shared(run: RunFolder) -> None:
    """Raise UserError, in all processes, where one does not see the folder of process 0; a lone one does.

    Without the check training would stand still at the first checkpoint, which all processes write together.
    """
    if jax.process_count() == 1:
        return
    first = jax.process_index() == 0
    number = multihost_utils.broadcast_one_to_all(np.int32(time.time_ns() % 2**31))
    mark = run.path / f".seen-by-all-{number}"
    if first:
        write_whole(mark, "")
    multihost_utils.sync_global_devices("the mark is written")
    seen = multihost_utils.process_allgather(np.array(_appears(mark.parent, mark.name)))
    if first:
        mark.unlink()
    if not seen.all():
        blind = " and ".join(f"process {number}" for number in np.flatnonzero(~seen))
        raise UserError(
            f"{blind} does not see the run folder of process 0 (here {run.path.resolve()}); "
            + (
                "choose a --workdir on a file system that all hosts share"
                if run.remote is None
                else "set XDG_CACHE_HOME to a folder that all hosts share"
            )
        )


def _appears(folder: os.PathLike[str], name: str) -> bool:
    """Whether a folder holds a name, now or soon."""
    until = time.monotonic() + TIMEOUT
    while True:
        if os.path.isdir(folder) and name in os.listdir(folder):
            return True
        if time.monotonic() > until:
            return False
        time.sleep(0.2)
