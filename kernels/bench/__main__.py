"""Measures every implementation of criss-cross attention that this device can run, side by side.

    python -m kernels.bench [--output FILE.json] [--implementations triton,xla] [--toy]
        [--resume] [--blocks FILE.json]

Forward, and forward + backward with the gradients of query, key and value, in bfloat16 and float32: time,
memory and error of each, beside PyTorch where that is installed with CUDA. Prints one table and writes
every number to criss_cross_bench.json, after each case; --resume keeps the cases that
the file holds already, of this device and these sources. --blocks takes block sizes that
`tune --output FILE.json` found. Without a GPU, or with --toy, tiny images go through the interpreter
instead, which shows that the program works and says nothing about speed.
"""

import itertools
import pathlib
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..criss_cross import IMPLEMENTATIONS, blocks, criss_cross_attention, device
from . import bench_pytorch
from .bench_cases import DIRECTIONS, DTYPES, Prepared, Size, input_sets
from .bench_limits import Limits, least_work, measured_limits
from .measure import (
    Program,
    first_line,
    interleaved_seconds,
    jax_clock,
    result_head,
    resume_report,
    sources,
    write_result,
)
from .programs import Parser, ending_well, result_file

RESULTS = pathlib.Path("criss_cross_bench.json")  # in the current folder


class Setup(NamedTuple):
    """What is measured, and for how long."""

    sizes: tuple[Size, ...]
    implementations: tuple[str, ...]
    rounds: int
    round_seconds: float
    rotation_bytes: int  # that the sets of inputs have together, at least: more than any L2 cache
    copied_numbers: int  # float32, for the copy bandwidth
    matrix: int  # side of the matrices, for the matrix rate

    @property
    def limits(self) -> tuple[int, int, int, float]:
        """The arguments of `measured_limits`."""
        return self.copied_numbers, self.matrix, self.rounds, self.round_seconds


FULL = Setup(
    (Size(8, 97, 97), Size(2, 128, 256), Size(16, 64, 64), Size(1, 256, 512)),
    (*(name for name, x in IMPLEMENTATIONS.items() if x.automatic), *bench_pytorch.NAMES),
    rounds=30,
    round_seconds=0.02,
    rotation_bytes=256 * 2**20,
    copied_numbers=2**28,
    matrix=8192,
)
TOY = Setup(
    (Size(1, 9, 7, 8, 32),),
    ("triton_interpret", "xla"),
    rounds=3,
    round_seconds=0.0,
    rotation_bytes=0,
    copied_numbers=2**16,
    matrix=64,
)


# --- What there is to time ---


def attention(implementation: str, direction: str) -> Callable[..., tuple[jax.Array, ...]]:
    """(query, key, value) -> (out,), or (query, key, value, d_out) -> (out, and the three gradients).

    Both return out, because training needs it: a compiler does not compute what is not returned.
    """

    def forward(query: jax.Array, key: jax.Array, value: jax.Array) -> tuple[jax.Array]:
        return (criss_cross_attention(query, key, value, implementation=implementation),)

    def both(query: jax.Array, key: jax.Array, value: jax.Array, d_out: jax.Array) -> tuple[jax.Array, ...]:
        out, pull = jax.vjp(lambda *x: forward(*x)[0], query, key, value)
        return out, *pull(d_out)

    return forward if direction == "forward" else both


def prepare_jax(name: str, direction: str, sets: list[tuple[jax.Array, ...]]) -> Prepared:
    """Memory is what the compiler planned for temporaries and results."""
    sets = [x[:3] if direction == "forward" else x for x in sets]
    compiled = jax.jit(attention(name, direction)).lower(*sets[0]).compile()
    plan = compiled.memory_analysis()
    memory = plan and plan.temp_size_in_bytes + plan.output_size_in_bytes
    results = tuple(np.asarray(x, np.float32) for x in compiled(*sets[0]))
    return Prepared(Program(compiled, sets, jax_clock), memory, results)


def unavailable(name: str) -> str | None:
    """Why this implementation cannot run here, or None."""
    return bench_pytorch.unavailable() if name in bench_pytorch.NAMES else IMPLEMENTATIONS[name].unavailable()


def runnable(names: Iterable[str]) -> list[str]:
    """The names that can run here; prints one line for each other one with the reason."""
    reasons = {name: unavailable(name) for name in names}
    for name, reason in reasons.items():
        if reason:
            print(f"{name} is skipped: it {reason}.")
    return [name for name, reason in reasons.items() if not reason]


# --- The measurement ---


_exact = jax.jit(attention("xla", "forward+backward"))


def exact_results(first_set: tuple[jax.Array, ...]) -> tuple[np.ndarray, ...] | None:
    """out and the three gradients in float32 from the same inputs; None where they do not fit."""
    inputs = tuple(x.astype(jnp.float32) for x in first_set)
    try:
        return tuple(np.asarray(x) for x in _exact(*inputs))
    except Exception as error:
        print(f"Errors cannot be measured: {first_line(error)}", file=sys.stderr)
        return None


def relative_errors(
    results: tuple[np.ndarray, ...], exact: tuple[np.ndarray, ...] | None
) -> tuple[float | None, float | None]:
    """Of out, and the largest of the gradients': the largest difference over the largest exact number."""
    if exact is None:
        return None, None
    pairs = zip(results, exact, strict=False)  # the forward pass alone has only the first
    out, *gradients = (float(np.abs(x - y).max() / np.abs(y).max()) for x, y in pairs)
    return out, max(gradients) if gradients else None


def measured_rows(
    size: Size, dtype: str, direction: str, names: list[str], limits: Limits, setup: Setup
) -> list[dict[str, Any]]:
    """A row for every implementation."""
    sets = input_sets(size, dtype, setup.rotation_bytes)
    prepared, failures = {}, {}
    for name in names:
        try:
            prepare = bench_pytorch.prepare if name in bench_pytorch.NAMES else prepare_jax
            prepared[name] = prepare(name, direction, sets)
        except Exception as error:  # out of memory is each library's own class
            failures[name] = first_line(error)
    programs = {name: x.program for name, x in prepared.items()}
    seconds, failed = interleaved_seconds(programs, setup.rounds, setup.round_seconds)
    failures |= failed

    exact = exact_results(sets[0])
    work = least_work(size, dtype, direction)
    medians = {name: float(np.median(x)) for name, x in seconds.items()}
    medians["floor"] = limits.floor(work, dtype)
    case = {"shape": size.name, "key_channels": size.key_channels, "value_channels": size.value_channels}
    case |= {"dtype": dtype, "direction": direction, **work._asdict(), "floor_us": 1e6 * medians["floor"]}
    rows = []
    for name in names:
        row = {**case, "implementation": name, "failure": failures.get(name)}
        if name in seconds:
            row |= row_numbers(seconds[name], medians, prepared[name], exact)
        rows.append(row)
    return rows


def row_numbers(
    seconds: list[float],
    medians: dict[str, float],
    prepared: Prepared,
    exact: tuple[np.ndarray, ...] | None,
) -> dict[str, Any]:
    """The numbers of one row: times in microseconds, memory in bytes."""
    low, median, high = (1e6 * float(x) for x in np.percentile(seconds, [25, 50, 75]))
    out, gradients = relative_errors(prepared.results, exact)
    stats = jax.local_devices()[0].memory_stats() or {}
    return {
        "median_us": median,
        "p25_us": low,
        "p75_us": high,
        "rounds": len(seconds),
        "time_over": {name: 1e-6 * median / x for name, x in medians.items()},
        "memory_bytes": prepared.memory,
        "jax_peak_bytes_since_start": stats.get("peak_bytes_in_use"),  # of all that ran before, too
        "error_out": out,
        "error_gradients": gradients,
    }


# --- The report ---


COLUMNS = {
    "shape": 10,
    "dtype": 8,
    "direction": 16,
    "implementation": 16,
    "us": 9,
    "p25": 9,
    "p75": 9,
    "/xla": 7,
    "/torch": 7,
    "/compile": 8,
    "/floor": 7,
    "MiB": 8,
    "error out": 9,
    "gradients": 9,
}
_TEXTS = 4  # the first columns are words, on the left; the others numbers, on the right


def table_line(cells: Iterable[str]) -> str:
    """Cells in columns of fixed width."""
    padded = [
        cell.ljust(width) if n < _TEXTS else cell.rjust(width)
        for n, (cell, width) in enumerate(zip(cells, COLUMNS.values(), strict=True))
    ]
    return " ".join(padded).rstrip()


def number(x: float | None, form: str) -> str:
    """x as `form` says, or a dash."""
    return "-" if x is None else format(x, form)


def row_line(row: dict[str, Any]) -> str:
    """One line of the table."""
    words = [row["shape"], row["dtype"], row["direction"], row["implementation"]]
    if row["failure"]:
        return f"{table_line([*words, *[''] * (len(COLUMNS) - _TEXTS)])} failed: {row['failure']}"
    times = [number(row[key], ".1f") for key in ("median_us", "p25_us", "p75_us")]
    ratios = [number(row["time_over"].get(name), ".2f") for name in ("xla", *bench_pytorch.NAMES, "floor")]
    memory = row["memory_bytes"] and row["memory_bytes"] / 2**20
    errors = [number(row[key], ".1e") for key in ("error_out", "error_gradients")]
    return table_line([*words, *times, *ratios, number(memory, ".1f"), *errors])


def table(report: dict[str, Any]) -> str:
    """All rows, what they were measured on, and what the columns mean."""
    title = f"Criss-cross attention on {report['device']}, JAX {report['versions']['jax']}"
    title += f", commit {report['commit']}"
    if report["toy"]:
        title += "\nTOY SIZES: the interpreter's times mean nothing"
    lines = [title, "", table_line(COLUMNS)]
    for n, row in enumerate(report["rows"]):
        before = report["rows"][n - 1]
        if n and (row["shape"], row["dtype"]) != (before["shape"], before["dtype"]):
            lines.append("")
        lines.append(row_line(row))
    limits = report["limits"]
    rates = ", ".join(
        f"{dtype} {precision} {rate / 1e12:.3g} TFLOP/s"
        for dtype, by_precision in limits["matrix"].items()
        for precision, rate in by_precision.items()
    )
    return "\n".join(
        [
            *lines,
            "",
            "us: median time of a call in microseconds; the middle half of the rounds lies from p25 to p75",
            "/NAME: this time over NAME's, below 1 is faster; floor: each byte moved once, or every product,",
            f"  at the measured rates: copy {limits['copy'] / 1e9:.4g} GB/s; {rates}",
            "MiB: temporaries and results; as XLA planned them, or PyTorch's peak",
            "errors: largest difference from float32 xla over the largest number; of the worst gradient",
            f"a call that does nothing takes {1e6 * limits['shortest']:.1f} us",
        ]
    )


def has_gpu() -> bool:
    """Whether the default device is a GPU."""
    return device.kind()[0] == "gpu"


def main(arguments: Sequence[str] | None = None) -> None:
    """The program."""
    known = (*IMPLEMENTATIONS, *bench_pytorch.NAMES)
    parser = Parser("kernels.bench", __doc__)
    parser.add_argument("--output", type=result_file, help=f"default: {RESULTS}")
    parser.add_argument("--implementations", help=f"of {','.join(known)}; default: all that can run")
    parser.add_argument("--resume", action="store_true", help="keep the cases that the output holds already")
    parser.add_argument("--blocks", type=pathlib.Path, help="block sizes from `tune --output`")
    parser.add_argument("--toy", action="store_true", help="tiny images, interpreted; writes no file unasked")
    flags = parser.parse_args(arguments)

    toy = flags.toy or not has_gpu()
    setup, output = (TOY, flags.output) if toy else (FULL, flags.output or RESULTS)
    names = flags.implementations.split(",") if flags.implementations else setup.implementations
    if unknown := [name for name in names if name not in known]:
        parser.error(f"unknown implementations {unknown}; known: {', '.join(known)}")
    if not has_gpu():
        print(f"There is no GPU here but {device.kind()[1]}: times of the kernels cannot be measured.")
    if toy:
        print("Tiny images instead, which show that everything runs; PyTorch is skipped at such sizes.")
    names = runnable(name for name in names if not (toy and name in bench_pytorch.NAMES))
    if not names:
        sys.exit("Nothing is left to measure.")

    if flags.blocks:
        if output and output.resolve() == flags.blocks.resolve():
            parser.error(f"--output {output} would replace the block sizes of --blocks; name another file")
        try:
            blocks.use_tuned(flags.blocks)
        except (OSError, ValueError, KeyError, TypeError) as error:
            parser.error(f"--blocks {flags.blocks} cannot be read ({error!r}); name a file of tune's")
    report: dict[str, Any] = {**result_head(), "sources": sources("kernels"), "toy": toy}
    report |= {"blocks": blocks.table_rows(), "implementations": names, "limits": None, "rows": []}
    report["finished"] = False
    if output and flags.resume:
        report = resume_report(output, report, ("limits", "rows", "finished"))
    report["limits"] = report["limits"] or measured_limits(*setup.limits)._asdict()
    limits = Limits(**report["limits"])
    cases = list(itertools.product(setup.sizes, DTYPES, DIRECTIONS))
    done = len(report["rows"]) // len(names)  # the cases come in the same order each time
    for n, case in enumerate(cases[done:], done):
        rows = measured_rows(*case, names, limits, setup)
        times = (f"{x['implementation']} {number(x.get('median_us'), '.0f')}" for x in rows)
        words = f"{case[0].name} {case[1]} {case[2]}"
        print(f"[{n + 1}/{len(cases)}] {words}, us: {', '.join(times)}", file=sys.stderr, flush=True)
        report["rows"] += [row | {"commit": report["commit"]} for row in rows]
        report["finished"] = n + 1 == len(cases)
        if output:  # after every case: a run that is cut short keeps what it has
            write_result(output, report)
    print(table(report))
    if output:
        print(f"Every number is in {output}")


if __name__ == "__main__":
    with ending_well():
        main()
