"""Making one program of the processes of a run."""

import atexit
import contextlib
from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ccnet_jax.common.errors import EndsElsewhere, UserError, user_error_in
from ccnet_jax.common.log import speaking
from ccnet_jax.engine.hosts.config import HostsConfig
from ccnet_jax.engine.hosts.link import Link, leave
from ccnet_jax.engine.hosts.meeting import meet
from ccnet_jax.engine.hosts.place import Place, find_place
from ccnet_jax.engine.hosts.relay import open_relay

_CONNECT = 120  # seconds for JAX, once all processes are known to be there
_INTERRUPTED = 130


@contextlib.contextmanager
def join_hosts(settings: HostsConfig, shared: Mapping[str, str]) -> Iterator[Link]:
    """Inside, this process and the run's others are one program of JAX. Must be entered before JAX computes.

    However it ends, the others hear of it: they do not wait for a process that is gone.

    Args:
      settings: `config.hosts`.
      shared: what must be the same in all processes, by name.

    Raises:
      HostLost: not all have come in time.
      UserError: nothing says who the others are, or they do not go together.
    """
    place = find_place(settings)
    try:
        peers = meet(place, settings.wait_seconds, shared)
    except KeyboardInterrupt:  # which is how a user ends waiting
        raise SystemExit(_INTERRUPTED) from None
    link = Link(place.process, peers, settings.timeout_seconds)
    link.start()
    try:
        _connect_jax(place, settings)
        _connect_devices()
        with speaking(place.process == 0):
            yield link
    except SystemExit:  # by a signal, after which all stop together
        _finish(link)
        raise
    except BaseException as error:
        if isinstance(error, EndsElsewhere):
            link.wait_for_loss()  # or for what ended the other one, which may take its time to close
        elif comes_from_others(error):
            link.wait_for_loss(settings.timeout_seconds + 10)
        _fail(link, error)
        raise
    else:
        _finish(link)


def _connect_jax(place: Place, settings: HostsConfig) -> None:
    """Start JAX's service in process 0, and connect all with it."""
    # JAX would take SIGTERM for itself, and leave it to the program to ask whether one came.
    jax.config.update("jax_enable_preemption_service", False)
    first = place.process == 0
    try:
        jax.distributed.initialize(
            place.coordinator if first else open_relay(place.address, _CONNECT),
            place.processes,
            place.process,
            list(place.local_devices) if place.local_devices is not None else None,
            cluster_detection_method="deactivate",
            initialization_timeout=_CONNECT,
            # A loss is the link's to notice. It must come first, since JAX aborts.
            heartbeat_timeout_seconds=10 * settings.timeout_seconds,
        )
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"JAX cannot join the processes at {place.coordinator}: {reason}") from None


def _connect_devices() -> None:
    """Let the devices of all processes meet, alone and by process, as training and evaluation need them.

    They do so when they first compute together. CPUs wait 30 s for one another then, and one process may need
    longer than another to compile.
    """
    devices = Mesh(np.array(jax.devices()), ("devices",))
    apart, together = (NamedSharding(devices, spec) for spec in (PartitionSpec("devices"), PartitionSpec()))
    ones = jax.make_array_from_process_local_data(apart, np.ones(jax.local_device_count(), np.float32))
    jax.block_until_ready(jax.jit(jnp.sum, out_shardings=together)(ones))
    multihost_utils.process_allgather(np.zeros(1))


def _finish(link: Link) -> None:
    link.finish()
    jax.distributed.shutdown()


def comes_from_others(error: BaseException) -> bool:
    """Whether the error is another process's, or may be what JAX, or Orbax, makes of the loss of one.

    Inside `join_hosts` it should be raised on: then this process waits until it hears which one, and why.
    """
    if isinstance(error, EndsElsewhere):
        return True
    words = ("Gloo", "NCCL", "nccl", "RCCL", "barrier")
    return user_error_in(error) is None and any(word in str(error) for word in words)


def _fail(link: Link, error: BaseException) -> None:
    """Tell the others why this process ends, and let it end without waiting for them."""
    mistake = user_error_in(error)
    if mistake is not None:
        message, code = str(mistake), mistake.exit_code
    elif isinstance(error, KeyboardInterrupt):
        message, code = "it was interrupted", _INTERRUPTED
    else:
        message, code = " ".join([f"{type(error).__name__}:", *str(error).split()])[:500], 1
    link.fail(message, code)
    atexit.register(leave, code)  # the last to register is the first to be called: before JAX's own
