"""StableHLO by `jax.export`: one file for CPUs and NVIDIA's GPUs, that JAX alone loads and runs.

Attention is the op's XLA implementation. The kernels are Pallas's: compiled, they are tied to the version
of the Triton compiler, `jax.export` promises no compatibility for them, they do not take symbolic sizes,
and they cannot run on a CPU.
"""

import pathlib
from collections.abc import Iterator

import jax
import numpy as np
from jax import export

from ccnet_jax.tools.exporting.formats import Disagrees, Format
from ccnet_jax.tools.exporting.program import Program

PLATFORMS = ("cpu", "cuda")


def write(program: Program, path: pathlib.Path) -> None:
    """Write the file."""
    exported = export.export(jax.jit(program.call), platforms=PLATFORMS)(*program.inputs().values())
    path.write_bytes(exported.serialize())


def compare(program: Program, path: pathlib.Path) -> Iterator[str]:
    """Run the file beside the jitted model; raises Disagrees where a bit of the results differs."""
    loaded = export.deserialize(bytearray(path.read_bytes()))
    for arguments in program.examples():
        wanted, found = jax.jit(program.call)(*arguments), loaded.call(*arguments)
        for name, value in wanted.items():
            if not np.array_equal(found[name], value, equal_nan=True):
                raise Disagrees(
                    f"the StableHLO program's {name} of images {list(arguments[0].shape)} are not those of "
                    "the jitted model; the file is not kept: try a fixed --size, or another version of JAX"
                )
        yield f"{list(arguments[0].shape)}: every bit as the jitted model's"


FORMAT = Format(
    suffix=".stablehlo",
    packages=("flatbuffers",),
    install="flatbuffers",
    dtypes=("float32", "bfloat16"),
    any_task=True,
    write=write,
    compare=compare,
)
