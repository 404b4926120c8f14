"""One of several processes has no batch: it lets the update change nothing, after which all save and end.

An update needs all processes. The others may have begun the next one when one finds that its data cannot be
read, so that process takes part in it with the batch before, and a mark that its part does not count.
"""

import contextlib
import signal
from collections.abc import Iterable, Iterator

import numpy as np
from jax.sharding import Mesh

from ccnet_jax import devices
from ccnet_jax.errors import UserError
from ccnet_jax.training.meter import Withdrawn
from ccnet_jax.training.step import WITHDRAWN, Batch
from ccnet_jax.training.stopping import GO_ON, Stopped


class StoppedAlone(UserError):
    """A signal to a process whose data do not come: it cannot wait for the step at which all stop.

    Args:
      number: of the signal.
    """

    def __init__(self, number: int):
        super().__init__(f"stopped by {signal.Signals(number).name} while no data came; {GO_ON}")
        self.exit_code = 128 + number


@contextlib.contextmanager
def withdrawing(batches: Iterable[Batch], rows: int, mesh: Mesh) -> Iterator[Iterator[Batch]]:
    """Inside, the batches with `WITHDRAWN`, which is False until one fails to come.

    From then on the batch before comes again and again, with `WITHDRAWN`; `Meter` raises `Withdrawn` for its
    update in all processes. On leaving, that becomes the error for which the batch did not come, in the
    process that has one. An error before the first batch is raised at once: nothing is lost by it.

    Args:
      batches: of this process.
      rows: pictures of this process in a batch.
      mesh: of the devices of all processes.
    """
    reason: list[Exception] = []

    def marked() -> Iterator[Batch]:
        mark = {value: devices.put_batch({WITHDRAWN: np.full(rows, value)}, mesh) for value in (False, True)}
        batch = None
        try:
            for batch in batches:
                yield batch | mark[False]
        except Exception as error:
            if batch is None:
                raise
            reason.append(error)
        while batch is not None and reason:
            yield batch | mark[True]

    try:
        yield marked()
    except Withdrawn:
        match reason:
            case [Stopped() as stopped]:
                raise StoppedAlone(stopped.number) from None
            case [error]:
                raise error from None
        raise
