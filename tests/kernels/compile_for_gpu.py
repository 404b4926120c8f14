"""Compiles the kernels for GPUs in a process of its own; prints what they cost as JSON, a line for each GPU.

python tests/kernels/compile_for_gpu.py h200,a100 bfloat16 8x97x97 2x128x256
"""

import json
import sys

from kernels.bench import aot  # before JAX starts

import jax  # isort: skip
import jax.numpy as jnp

from kernels import packed_criss_cross_attention


def costs(gpu: str, dtype: str, size: str) -> dict:
    """{kernel: [registers, spilled bytes]} of forward and backward, D = 64, C = 512."""

    def gradient(packed, upstream):
        out, pull = jax.vjp(lambda x: packed_criss_cross_attention(x, 64, implementation="triton"), packed)
        return out, pull(upstream)

    shape = tuple(map(int, size.split("x")))
    packed, out = (jax.ShapeDtypeStruct((*shape, c), jnp.dtype(dtype)) for c in (640, 512))
    report = aot.compile_for(gpu, gradient, packed, out, kernels=True)
    return {
        name: [kernel.registers, kernel.spilled_bytes]
        for name, kernel in report.kernels.items()
        if name.startswith("criss_cross")
    }


if __name__ == "__main__":
    gpus, dtype, *sizes = sys.argv[1:]
    for gpu in gpus.split(","):
        print(json.dumps({size: costs(gpu, dtype, size) for size in sizes}))
