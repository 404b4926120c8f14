"""Where arrays live: one `data` axis over all devices, batches split along it, the rest on every device."""

import functools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ccnet_jax.common.errors import UserError

# On the CPU XLA hands products, convolutions and reductions to one library, YNNPACK. Its convolutions are
# slower than XLA's own and its reductions faster, so that only these are left to it.
CPU_OPTIONS = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE"}


def data_mesh(devices: list[jax.Device] | None = None) -> Mesh:
    """All devices of all processes (or those given) in a row named `data`."""
    return Mesh(np.array(devices if devices is not None else jax.devices()), ("data",))


def mesh_for(rows: int) -> Mesh:
    """The mesh of as many devices as can share a batch of so many rows evenly."""
    return data_mesh(jax.devices()[: math.gcd(rows, jax.device_count())])


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Splits the first axis over the devices."""
    return NamedSharding(mesh, PartitionSpec("data"))


def replicated_sharding(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This process's part of a batch, NumPy [b, ...], as global arrays [batch, ...] split over the mesh."""
    sharding = batch_sharding(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)


def prefetch(batches: Iterable[dict[str, np.ndarray]], mesh: Mesh) -> Iterator[dict[str, jax.Array]]:
    """`put_batch` of each, one batch ahead, so that copies to the devices overlap with their work."""
    ahead = None
    for batch in batches:
        ready, ahead = ahead, put_batch(batch, mesh)
        if ready is not None:
            yield ready
    if ahead is not None:
        yield ahead


def peak_memory(mesh: Mesh) -> int | None:
    """Most bytes in use at one time on one of this process's devices; None where they do not tell (CPUs)."""
    known = [device.memory_stats() or {} for device in mesh.local_devices]
    return max((stats["peak_bytes_in_use"] for stats in known if "peak_bytes_in_use" in stats), default=None)


def memory_limit() -> int | None:
    """Bytes that JAX may use of one of this process's devices; None where they do not tell (CPUs)."""
    return (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")


def as_first(flag: bool) -> bool:
    """What the first process says, in all processes: they wait for one another."""
    return bool(multihost_utils.broadcast_one_to_all(np.int32(flag)))


def check_as_first(check: Callable[[], object], otherwise: str) -> None:
    """Call `check` in all processes, which wait for one another.

    Raises UserError, in all of them, where it raises one in the first: the process's own, or `otherwise`.
    """
    problem = None
    try:
        check()
    except UserError as error:
        problem = error
    if as_first(problem is not None):
        raise problem or UserError(otherwise)


def on_this_process(tree: Any, mesh: Mesh) -> Any:
    """Arrays that every device holds whole, as arrays of a mesh of this process's devices alone."""
    return jax.device_put(jax.tree.map(lambda x: x.addressable_data(0), tree), replicated_sharding(mesh))


@functools.cache
def compiler_options() -> dict[str, str]:
    """What `jax.jit(compiler_options=...)` should have for a program with convolutions: `CPU_OPTIONS`, or {}.

    {} on other devices, and for a version of XLA that does not know the options.
    """
    if jax.devices()[0].platform != "cpu":
        return {}
    try:
        jax.jit(lambda x: x, compiler_options=CPU_OPTIONS).lower(0.0).compile()
    except jax.errors.JaxRuntimeError:
        return {}
    return CPU_OPTIONS
