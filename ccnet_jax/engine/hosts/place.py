"""Which of how many processes this one is, and where they meet."""

import dataclasses
import os

from ccnet_jax.common.errors import UserError
from ccnet_jax.engine.hosts.config import HostsConfig

# Open MPI's name of what `mpirun` tells each process it starts, in every version. JAX 0.10 looks for
# another one, which Open MPI 5 has no longer, and JAX 0.12 needs one more package to ask it.
_OPEN_MPI = {"processes": "OMPI_COMM_WORLD_SIZE", "process": "OMPI_COMM_WORLD_RANK"}
_OPEN_MPI_LOCAL = "OMPI_COMM_WORLD_LOCAL_RANK"
_BY_HAND = {"processes": "JAX_NUM_PROCESSES", "process": "JAX_PROCESS_ID"}
_ADDRESS = "JAX_COORDINATOR_ADDRESS"


@dataclasses.dataclass(frozen=True)
class Place:
    """This process among the processes of a run.

    Attributes:
      coordinator: HOST:PORT at which process 0 waits for the others.
      processes: their number.
      process: the number of this one, from 0.
      local_devices: numbers of this machine's devices that are this process's, None for all of them.
    """

    coordinator: str
    processes: int
    process: int
    local_devices: tuple[int, ...] | None = None

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the coordinator."""
        host, _, port = self.coordinator.rpartition(":")
        return host.strip("[]"), int(port)


def find_place(settings: HostsConfig) -> Place:
    """This process's place: by the settings, else by the environment, else as JAX finds it.

    Under SLURM and Open MPI a process has one device of its machine, so that as many are started on a machine
    as it has GPUs; JAX_LOCAL_DEVICE_IDS gives it others. A process that is told by hand has them all.

    Raises:
      UserError: nothing says what its place is, or what does is wrong.
    """
    coordinator = settings.coordinator or os.environ.get(_ADDRESS)
    numbers = {name: _number(_BY_HAND[name]) for name in _BY_HAND}
    numbers |= {name: value for name in _BY_HAND if (value := getattr(settings, name)) is not None}
    local = None
    if None in numbers.values() and _OPEN_MPI["process"] in os.environ:
        numbers |= {name: _number(_OPEN_MPI[name]) for name in numbers if numbers[name] is None}
        local = _one(_number(_OPEN_MPI_LOCAL))
    processes, process = numbers["processes"], numbers["process"]
    if coordinator is None or processes is None or process is None:
        coordinator, processes, process, local = _as_jax_finds(settings, coordinator, processes, process)
    if os.environ.get("JAX_LOCAL_DEVICE_IDS"):
        local = None  # which JAX reads itself
    found = dataclasses.replace(settings, coordinator=coordinator, processes=processes, process=process)
    if problems := found.problems():
        raise UserError(problems[0])
    return Place(coordinator, processes, process, local)


def _number(name: str) -> int | None:
    """A whole number in the environment, None where it is not set. Raises UserError for other texts."""
    text = os.environ.get(name)
    if not text:
        return None
    if not text.isdecimal():
        raise UserError(f"{name}={text} in the environment must be a whole number of at least 0")
    return int(text)


def _one(device: int | None) -> tuple[int, ...] | None:
    return None if device is None else (device,)


def _as_jax_finds(
    settings: HostsConfig, coordinator: str | None, processes: int | None, process: int | None
) -> tuple[str, int, int, tuple[int, ...] | None]:
    """What is None, as JAX finds it under SLURM, Open MPI or Kubernetes; the numbers of the devices.

    Raises UserError where it does not.
    """
    # JAX shows this to nobody before it waits for the others, and then ends the process where one is missing.
    from jax._src.clusters import ClusterEnv

    try:
        found = ClusterEnv.auto_detect_unset_distributed_params(
            coordinator, processes, process, None, None, settings.wait_seconds
        )
    except (RuntimeError, ValueError, LookupError, OSError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"config.distributed is True, but the cluster does not say who is who ({reason}); set "
            "config.hosts.coordinator, processes and process"
        ) from None
    coordinator, processes, process, local = found
    names = {"coordinator": coordinator, "processes": processes, "process": process}
    if coordinator is None or processes is None or process is None:
        missing = [f"config.hosts.{name}" for name, value in names.items() if value is None]
        raise UserError(
            f"config.distributed is True, but nothing says what {' and '.join(missing)} is: set it, or set "
            "JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID in the environment, or start "
            "under SLURM, Open MPI or Kubernetes; one process alone needs no config.distributed"
        )
    return coordinator, processes, process, None if local is None else tuple(local)
