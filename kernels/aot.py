"""Compile for an NVIDIA GPU on a machine that has none, and report registers, spills and planned memory.

XLA and Pallas compile ahead of time through JAX's CUDA plugin and `ptxas`; nothing runs. Beside JAX this
needs the following (`unavailable` says which one is missing):

    pip install "jax[cuda13-local]"     # the plugin of the same version as jax, without CUDA's libraries
    ptxas                               # from the CUDA toolkit, on the PATH or in /usr/local/cuda/bin

    from kernels import aot             # before the first use of JAX, in a process of its own
    report = aot.compile_for("h200", function, jax.ShapeDtypeStruct((8, 97, 97, 640), jnp.bfloat16))
    report.temporary_bytes, report.kernels["criss_cross_forward_rows"].spilled_bytes
"""

import dataclasses
import functools
import importlib.metadata
import importlib.util
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

_DUMP = pathlib.Path(tempfile.mkdtemp(prefix="aot_"))  # XLA reads its flags once, when JAX starts
_FLAGS = [
    f"--xla_dump_to={_DUMP}",
    "--xla_gpu_enable_triton_gemm=false",  # its tile sizes are found by running, here with no GPU to run on
]
if tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2])) >= (0, 11):
    _FLAGS.append("--xla_dump_emitter_re=.*ptx.*")  # since then XLA writes its PTX only where asked

os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *_FLAGS])

import jax  # noqa: E402
from jax.experimental import topologies  # noqa: E402
from jax.sharding import Mesh, NamedSharding, PartitionSpec  # noqa: E402

# Otherwise the plugin looks for a GPU, and fails where there is none.
if not jax.config.jax_platforms:  # type: ignore[attr-defined]  # JAX adds its options at run time
    jax.config.update("jax_platforms", "cpu")

GPUS = {"h200": "sm_90a", "a100": "sm_80"}


@dataclasses.dataclass(frozen=True)
class Kernel:
    """What ptxas says of one kernel."""

    registers: int  # of a thread, 255 at most
    spilled_bytes: int  # that a thread stores to memory because its registers are full


@dataclasses.dataclass(frozen=True)
class Report:
    """What a compiled program costs on each device.

    Attributes:
      temporary_bytes: device memory beside arguments and results.
      kernels: of Pallas Triton, by name.
      hlo: the optimized program.
    """

    temporary_bytes: int
    kernels: dict[str, Kernel]
    hlo: str


def unavailable() -> str | None:
    """What is missing here for `compile_for`, or None."""
    if not importlib.util.find_spec("jax_plugins.xla_cuda13"):
        return 'JAX\'s CUDA plugin is not installed: pip install "jax[cuda13-local]"'
    if not _ptxas():
        return "ptxas is not on the PATH: install the CUDA toolkit"
    return None


def device_name(gpu: str) -> str:
    """What a result file says of a GPU that exists only for the compiler; gpu: a name in `GPUS`."""
    return f"{gpu.upper()}, compiled for, not run"


@functools.cache
def mesh(gpu: str, devices: int = 1) -> Mesh:
    """`devices` GPUs that exist only for the compiler, in a row named `data`, the same ones at every call.

    gpu: a name in `GPUS`.
    """
    topology = topologies.get_topology_desc(
        platform="cuda",
        topology_name=gpu,
        target_config=(pathlib.Path(__file__).parent / "gpus" / f"{gpu}.txtpb").read_text(),
        topology=f"1x1x{devices}",
    )
    return topologies.make_mesh(topo=topology, mesh_shape=(devices,), axis_names=("data",))


def compile_for(
    gpu: str, function: Callable, *arguments: Any, devices: int = 1, split: Sequence[bool] = ()
) -> Report:
    """Compile jit(function)(*arguments).

    Args:
      gpu: a name in `GPUS`.
      arguments: arrays, `jax.ShapeDtypeStruct`s or pytrees of them.
      devices: how many GPUs share the work.
      split: for each argument, whether its first axis is split over them; none where empty.

    Raises:
      RuntimeError: something is missing here, or the compiler does not report the costs.
    """
    if missing := unavailable():
        raise RuntimeError(missing)
    over = mesh(gpu, devices)
    placed = [
        jax.tree.map(
            functools.partial(_placed, NamedSharding(over, PartitionSpec("data") if s else PartitionSpec())),
            argument,
        )
        for argument, s in zip(arguments, split or [False] * len(arguments), strict=True)
    ]
    before = set(_DUMP.glob("*.ptx"))
    with jax.sharding.use_abstract_mesh(over.abstract_mesh):
        compiled = jax.jit(function).lower(*placed).compile()
    written = sorted(set(_DUMP.glob("*.ptx")) - before)
    kernels = {name: kernel for ptx in written for name, kernel in _assembled(ptx, GPUS[gpu]).items()}
    memory, hlo = compiled.memory_analysis(), compiled.as_text()
    if memory is None or hlo is None:
        raise RuntimeError("this JAX does not report what a program compiled for a GPU costs")
    return Report(memory.temp_size_in_bytes, kernels, hlo)


def _placed(sharding: NamedSharding, x: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)


def _ptxas() -> str | None:
    return shutil.which("ptxas", path=os.environ.get("PATH", "") + os.pathsep + "/usr/local/cuda/bin")


def _assembled(ptx: pathlib.Path, architecture: str) -> dict[str, Kernel]:
    """The kernels in a PTX file. It is assembled again, because ptxas then prints their registers."""
    if ".entry" not in ptx.read_text():
        return {}
    command = [_ptxas() or "ptxas", "-v", "--gpu-name", architecture, str(ptx), "-o", os.devnull]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    kernels = {}
    for block in re.split("Compiling entry function", said)[1:]:
        registers = int(_found(r"Used (\d+) registers", block))
        spilled = int(_found(r"(\d+) bytes spill stores", block))
        kernels[_found(r"\A '(\w+)'", block)] = Kernel(registers, spilled)
    return kernels


def _found(pattern: str, text: str) -> str:
    """What the pattern's group matches in ptxas's output. Raises RuntimeError where it matches nothing."""
    match = re.search(pattern, text)
    if match is None:
        raise RuntimeError(f"ptxas did not print {pattern!r}: its output has changed")
    return match[1]
