"""One of several processes has no batch: it lets the step change nothing, after which all save and end.

A step needs all processes. The others may have begun the next one when one finds that its data cannot be
read, so that process takes part in it with the batch before, and a mark that its part does not count.
"""

import contextlib
import dataclasses
import functools
import signal
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ccnet_jax.common import devices
from ccnet_jax.common.errors import UserError
from ccnet_jax.engine.meter import BATCH_MISSING, BatchMissing
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


def unless_batch_missing(train_step: Callable[..., Any]) -> Callable[..., Any]:
    """The step, as a function to compile, that changes nothing but its number where a process has no batch.

    Args:
      train_step: (state, batch) -> (state, metrics); a state is a dataclass with `variables` and `optimizer`.

    Returns:
      The same of batches that may have `BATCH_MISSING`, bool [B]; then the metrics count its rows.
    """

    @functools.wraps(train_step)
    def guarded_step(state: Any, batch: Batch) -> tuple[Any, dict[str, Any]]:
        rest = {name: x for name, x in batch.items() if name != BATCH_MISSING}
        new, metrics = train_step(state, rest)
        if BATCH_MISSING not in batch:
            return new, metrics
        # XLA joins a float32 sum to the all-reduce of the gradients; `any` would be one of its own
        missing = batch[BATCH_MISSING].astype(jnp.float32).sum()
        variables, buffers = jax.tree.map(
            functools.partial(jnp.where, missing == 0),
            (new.variables, new.optimizer),
            (state.variables, state.optimizer),
        )
        new = dataclasses.replace(new, variables=variables, optimizer=buffers)
        return new, metrics | {BATCH_MISSING: missing}

    return guarded_step


@contextlib.contextmanager
def with_missing_batches(
    batches: Iterable[Batch], rows: int, mesh: Mesh, alike: bool = True
) -> Iterator[Iterator[Batch]]:
    """Inside, the batches with a mark `BATCH_MISSING`, which is False until one fails to come.

    From then on the batch before comes again and again, with the mark True; `Meter` raises `BatchMissing` for
    its step in all processes. On leaving, that becomes the error for which the batch did not come, in the
    process that has one. An error is raised at once before the first batch, since nothing is lost by it, and
    where batches have several shapes, since that of the others' step is not known.

    Args:
      batches: of this process.
      rows: images of this process in a batch.
      mesh: of the devices of all processes.
      alike: whether all batches have the same shape.
    """
    reason: list[Exception] = []

    def marked() -> Iterator[Batch]:
        complete, missing = (
            devices.put_batch({BATCH_MISSING: np.full(rows, value)}, mesh) for value in (False, True)
        )
        batch = None
        try:
            for batch in batches:
                yield batch | complete
        except Stopped as stopped:
            reason.append(StoppedAlone(stopped.number))
        except Exception as error:
            reason.append(error)
        if reason and (batch is None or not alike):
            raise reason[0]
        while batch is not None and reason:
            yield batch | missing

    try:
        yield marked()
    except BatchMissing:
        if not reason:
            raise
    else:
        return
    raise reason[0]  # outside of what handles `BatchMissing`, so that the error keeps its own cause
