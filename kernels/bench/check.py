"""Checks the kernels of criss-cross attention on this device: results and gradients beside the reference's.

    python -m kernels.bench.check [--output FILE.json] [--toy]

Every kernel that the device can run, in bfloat16, float32 and float16, for the paper's size and for odd ones:
out, log-sum-exp and all gradients, of separate and of packed arrays. The reference is computed in float32 on
the same device, from the same numbers. An error is the largest difference over the largest number; `BOUNDS`
says how large it may be. Exits with 1 where one is larger. With --output it goes on where it was cut off.
Without a GPU, --toy checks tiny images in the interpreter.
"""

import concurrent.futures
import functools
import os
import sys
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..criss_cross import IMPLEMENTATIONS, criss_cross_attention, packed_criss_cross_attention
from .bench_cases import Size, input_sets
from .measure import first_line, result_head, resume_report, sources, write_result
from .programs import Parser, ending_well, result_file

BOUNDS = {"bfloat16": 2e-2, "float32": 2e-5, "float16": 3e-3}
SIZES = (
    Size(8, 97, 97),
    Size(1, 60, 45),
    Size(2, 65, 129),
    Size(1, 128, 256),
    Size(3, 5, 7, 8, 16),
    Size(1, 33, 65, 128, 24),
    Size(1, 97, 97, 8, 72),
    Size(1, 1, 40, 8, 16),
    Size(1, 70, 1, 16, 2048),
    Size(1, 6, 9, 200, 24),  # a block holds all of D: more than 128 channels have blocks of their own
    Size(1, 1, 1, 8, 16),
    Size(1, 256, 512),
)
TOY_SIZES = (Size(2, 5, 7, 8, 16),)
THREADS = 8  # cases at once: most of the time goes into compiling, in which threads run side by side
NAMES = ("out", "log-sum-exp", "d query", "d key", "d value", "packed out", "d packed")


# Whoever compares results does not need the fastest products, and to search for these takes minutes.
QUICKLY_COMPILED = {"xla_gpu_autotune_level": 0, "xla_gpu_enable_triton_gemm": False}


@functools.partial(jax.jit, static_argnums=0, compiler_options=QUICKLY_COMPILED)
def results(implementation: str, query: jax.Array, key: jax.Array, value: jax.Array, d_out: jax.Array) -> Any:
    """The arrays that `NAMES` names."""

    def separate(*arrays: jax.Array) -> tuple[jax.Array, jax.Array]:
        return criss_cross_attention(*arrays, implementation=implementation, return_residuals=True)

    def packed(array: jax.Array) -> jax.Array:
        return packed_criss_cross_attention(array, query.shape[-1], implementation=implementation)

    (out, lse), pull = jax.vjp(separate, query, key, value)
    packed_out, packed_pull = jax.vjp(packed, jnp.concatenate([query, key, value], -1))
    return out, lse, *pull((d_out, jnp.ones_like(lse))), packed_out, *packed_pull(d_out)


def relative_error(got: jax.Array, exact: jax.Array) -> float | None:
    """The largest difference over the largest number; None where that is no more than rounding.

    A line of one pixel has one weight, 1, whose gradient is exactly 0.
    """
    largest = float(jnp.abs(exact).max())
    return float(jnp.abs(got.astype(jnp.float32) - exact).max()) / largest if largest > 1e-4 else None


def checked_row(size: Size, dtype: str, implementation: str) -> dict[str, Any]:
    """The errors of one case, and whether all are within the bound."""
    row: dict[str, Any] = {"shape": size.name, "key_channels": size.key_channels}
    row |= {"value_channels": size.value_channels, "dtype": dtype, "implementation": implementation}
    row |= {"bound": BOUNDS[dtype], "errors": {}, "failure": None}
    inputs = input_sets(size, dtype, rotation_bytes=0)[0]
    try:
        exact = results("xla", *(x.astype(jnp.float32) for x in inputs))
        got = results(implementation, *inputs)
        errors = map(relative_error, got, exact)
        row["errors"] = {name: x for name, x in zip(NAMES, errors, strict=True) if x is not None}
    except Exception as error:  # the compiler's classes and the device's are many
        row["failure"] = first_line(error)
    row["passed"] = not row["failure"] and all(x <= row["bound"] for x in row["errors"].values())
    return row


def row_line(row: dict[str, Any]) -> str:
    """One line of text."""
    shape = f"{row['shape']}, D {row['key_channels']}, C {row['value_channels']}"
    words = f"{'ok  ' if row['passed'] else 'FAIL'} {shape:26} {row['dtype']:9} {row['implementation']}"
    if row["failure"]:
        return f"{words}: {row['failure']}"
    worst = max(row["errors"], key=lambda name: np.nan_to_num(row["errors"][name], nan=np.inf))
    return f"{words}: error at most {row['errors'][worst]:.1e} ({worst}), bound {row['bound']:.0e}"


def main(arguments: Sequence[str] | None = None) -> None:
    """The program."""
    parser = Parser("kernels.bench.check", __doc__)
    parser.add_argument("--output", type=result_file, help="JSON file; what it holds already is kept")
    parser.add_argument("--toy", action="store_true", help="tiny images, in the interpreter")
    flags = parser.parse_args(arguments)

    names = [name for name, x in IMPLEMENTATIONS.items() if x.automatic and name != "xla"]
    names = ["triton_interpret"] if flags.toy else [x for x in names if not IMPLEMENTATIONS[x].unavailable()]
    if not names:
        sys.exit("This device runs no kernels, only the reference; --toy checks them in the interpreter.")
    report = {**result_head(), "sources": sources("kernels"), "toy": flags.toy, "rows": [], "finished": False}
    if flags.output:
        report = resume_report(flags.output, report, ("rows", "finished"))
    cases = [(s, d, n) for s in (TOY_SIZES if flags.toy else SIZES) for d in BOUNDS for n in names]
    done = len(report["rows"])  # the cases come in the same order each time
    pool = concurrent.futures.ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1))
    try:
        for n, row in enumerate(pool.map(checked_row, *zip(*cases[done:], strict=True)), done + 1):
            print(f"[{n}/{len(cases)}] {row_line(row)}", file=sys.stderr, flush=True)
            report["rows"].append(row)
            report["finished"] = n == len(cases)
            if flags.output:  # after every case: a run that is cut short keeps what it has
                write_result(flags.output, report)
    finally:
        pool.shutdown(cancel_futures=True)
    failed = [row for row in report["rows"] if not row["passed"]]
    print(f"{len(report['rows']) - len(failed)} of {len(cases)} cases are within their bounds")
    if failed:
        sys.exit("\n".join(map(row_line, failed)))


if __name__ == "__main__":
    with ending_well():
        main()
