"""One of several processes has no batch: it lets the step change nothing, after which all save and end.

A step needs all processes. The others may have begun the next one when one finds that its data cannot be
read, so that process takes part in it with the batch before, and a mark that its part does not count.
"""

import contextlib
import signal
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from jax.sharding import Mesh

from ccnet_jax.common import devices
from ccnet_jax.common.errors import UserError
from ccnet_jax.engine.meter import BatchMissing
from ccnet_jax.engine.stopping import Stopped

Batch = dict[str, Any]


class StoppedAlone(UserError):
    """A signal to a process whose data do not come: it cannot wait for the step at which all stop.

    Args:
      number: of the signal.
    """

    def __init__(self, number: int):
        super().__init__(
            f"stopped by {signal.Signals(number).name} while no data came; the same command on all hosts "
            "goes on from the last checkpoint"
        )
        self.exit_code, self.at_once = 128 + number, True


@contextlib.contextmanager
def with_missing_batches(
    batches: Iterable[Batch], missing: str, rows: int, mesh: Mesh, alike: bool = True
) -> Iterator[Iterator[Batch]]:
    """Inside, the batches with a mark `missing`, which is False until one fails to come.

    From then on the batch before comes again and again, with the mark True; `Meter` raises `BatchMissing` for
    its step in all processes. On leaving, that becomes the error for which the batch did not come, in the
    process that has one. An error is raised at once before the first batch, since nothing is lost by it, and
    where batches have several shapes, since that of the others' step is not known.

    Args:
      batches: of this process.
      missing: name of the mark, bool [B], by which a step knows that it is to change nothing.
      rows: images of this process in a batch.
      mesh: of the devices of all processes.
      alike: whether all batches have the same shape.
    """
    reason: list[Exception] = []

    def marked() -> Iterator[Batch]:
        mark = {value: devices.put_batch({missing: np.full(rows, value)}, mesh) for value in (False, True)}
        batch = None
        try:
            for batch in batches:
                yield batch | mark[False]
        except Stopped as stopped:
            reason.append(StoppedAlone(stopped.number))
        except Exception as error:
            reason.append(error)
        if reason and (batch is None or not alike):
            raise reason[0]
        while batch is not None and reason:
            yield batch | mark[True]

    try:
        yield marked()
    except BatchMissing:
        if not reason:
            raise
    else:
        return
    raise reason[0]  # outside of what handles `BatchMissing`, so that the error keeps its own cause
