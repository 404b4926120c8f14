"""Compile for an NVIDIA GPU on a machine that has none, and report planned memory, registers and spills.

XLA and Pallas compile ahead of time through JAX's CUDA plugin, `ptxas` and libdevice; nothing runs. Beside
JAX this needs the following (`unavailable` says what is missing):

    pip install "jax[cuda13-local]"               # the plugin of the same version as jax, no CUDA libraries
    pip install nvidia-cuda-nvcc nvidia-nvvm      # ptxas and libdevice, unless the CUDA toolkit is installed

    from kernels.bench import aot                 # before the first use of JAX
    report = aot.compile_for("h200", function, jax.ShapeDtypeStruct((8, 97, 97, 640), jnp.bfloat16))
    report.temporary_bytes, report.peak_bytes, report.accessed_bytes
"""

import dataclasses
import functools
import importlib.util
import os
import pathlib
import re
import shlex
import shutil
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from . import hlo
from .gpu import GPUS

# Otherwise the plugin looks for a GPU, and fails where there is none.
if not jax.config.jax_platforms:  # type: ignore[attr-defined]  # JAX adds its options at run time
    jax.config.update("jax_platforms", "cpu")

_OPTIONS = {
    # its tile sizes are found by running, here with no GPU to run on
    "xla_gpu_enable_triton_gemm": False,
}


@dataclasses.dataclass(frozen=True)
class Kernel:
    """What ptxas says of one kernel."""

    registers: int  # of a thread, 255 at most
    spilled_bytes: int  # that a thread stores to memory because its registers are full


@dataclasses.dataclass(frozen=True)
class Report:
    """What a compiled program costs on each device.

    Attributes:
      argument_bytes: device memory of the arguments.
      output_bytes: device memory of the results.
      reused_bytes: of the results, what lies where a donated argument lay.
      temporary_bytes: device memory beside arguments and results. The libraries that compute convolutions
        (cuDNN) take scratch memory on top, which only a running GPU decides.
      kernels: of Pallas Triton and XLA, by name; empty unless asked for.
      hlo: the optimized program.
    """

    argument_bytes: int
    output_bytes: int
    reused_bytes: int
    temporary_bytes: int
    kernels: dict[str, Kernel]
    hlo: str

    @property
    def peak_bytes(self) -> int:
        """Device memory while the program runs: arguments, results and temporaries."""
        return self.argument_bytes + self.output_bytes - self.reused_bytes + self.temporary_bytes

    @functools.cached_property
    def accessed_bytes(self) -> int:
        """Device memory that the program's kernels read and write, see `kernels.bench.hlo`."""
        return hlo.accessed_bytes(self.hlo)


def unavailable() -> str | None:
    """What is missing here for `compile_for`, or None."""
    # the search for a module in a package that is not there would be an error
    if not (importlib.util.find_spec("jax_plugins") and importlib.util.find_spec("jax_plugins.xla_cuda13")):
        return 'JAX\'s CUDA plugin is not installed: pip install "jax[cuda13-local]"'
    if not _ptxas():
        return "ptxas is not on the PATH: pip install nvidia-cuda-nvcc nvidia-nvvm, or the CUDA toolkit"
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
        target_config=GPUS[gpu].description,
        topology=f"1x1x{devices}",
    )
    return topologies.make_mesh(topo=topology, mesh_shape=(devices,), axis_names=("data",))


def compile_for(
    gpu: str,
    function: Callable,
    *arguments: Any,
    devices: int = 1,
    split: Sequence[bool] = (),
    kernels: bool = False,
) -> Report:
    """Compile jit(function)(*arguments).

    Args:
      gpu: a name in `GPUS`.
      function: a plain function, or one that `jax.jit` returned, whose donated arguments stay donated.
      arguments: arrays, `jax.ShapeDtypeStruct`s or pytrees of them.
      devices: how many GPUs share the work.
      split: for each argument, whether its first axis is split over them; none where empty.
      kernels: also report the registers of every kernel, as ptxas tells them.

    Raises:
      RuntimeError: something is missing here, or the compiler does not report the costs.
    """
    if missing := unavailable():
        raise RuntimeError(missing)
    over = mesh(gpu, devices)
    placed = [
        jax.tree.map(
            functools.partial(
                _with_sharding, NamedSharding(over, PartitionSpec("data") if s else PartitionSpec())
            ),
            argument,
        )
        for argument, s in zip(arguments, split or [False] * len(arguments), strict=True)
    ]
    jitted = function if isinstance(function, jax.stages.Wrapped) else jax.jit(function)
    with tempfile.TemporaryDirectory(prefix="aot_") as folder:
        options = _OPTIONS | ({"xla_gpu_cuda_data_dir": _with_talkative_ptxas(folder)} if kernels else {})
        with jax.sharding.use_abstract_mesh(over.abstract_mesh):
            compiled = jitted.lower(*placed).compile(compiler_options=options)
        found = _kernels_in(pathlib.Path(folder)) if kernels else {}
    memory, text = compiled.memory_analysis(), compiled.as_text()
    if memory is None or text is None:
        raise RuntimeError("this JAX does not report what a program compiled for a GPU costs")
    return Report(
        memory.argument_size_in_bytes,
        memory.output_size_in_bytes,
        memory.alias_size_in_bytes,
        memory.temp_size_in_bytes,
        found,
        text,
    )


def _with_sharding(sharding: NamedSharding, x: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)


def _with_talkative_ptxas(folder: str) -> str:
    """The folder, with a bin/ptxas for XLA that says in a file per call what it says with `-v`."""
    program = pathlib.Path(folder) / "bin" / "ptxas"
    program.parent.mkdir()
    program.write_text(
        f"""#!/bin/sh
said=$(mktemp {shlex.quote(folder)}/said.XXXXXX)
{shlex.quote(_ptxas() or "ptxas")} -v "$@" 2> "$said"
status=$?
[ $status = 0 ] || cat "$said" >&2
exit $status
"""
    )
    program.chmod(0o700)
    return folder


def _ptxas() -> str | None:
    """The path of ptxas: from the CUDA toolkit, or from NVIDIA's wheel."""
    folders = [os.environ.get("PATH", ""), "/usr/local/cuda/bin"]
    if wheels := importlib.util.find_spec("nvidia"):
        folders += [f"{folder}/cu13/bin" for folder in wheels.submodule_search_locations or ()]
    return shutil.which("ptxas", path=os.pathsep.join(folders))


def _kernels_in(folder: pathlib.Path) -> dict[str, Kernel]:
    """The kernels of which `_with_talkative_ptxas` told. Raises RuntimeError where XLA did not call it."""
    kernels = {}
    for said in sorted(folder.glob("said.*")):
        for block in re.split("Compiling entry function", said.read_text())[1:]:
            registers = int(_found(r"Used (\d+) registers", block))
            spilled = int(_found(r"(\d+) bytes spill stores", block))
            kernels[_found(r"\A '(\w+)'", block)] = Kernel(registers, spilled)
    if not kernels:
        raise RuntimeError("XLA assembled no kernel by ptxas: this JAX does not tell their registers")
    return kernels


def _found(pattern: str, text: str) -> str:
    """What the pattern's group matches in ptxas's output. Raises RuntimeError where it matches nothing."""
    match = re.search(pattern, text)
    if match is None:
        raise RuntimeError(f"ptxas did not print {pattern!r}: its output has changed")
    return match[1]
