"""Measures every implementation of criss-cross attention that this device can run, side by side.

    python -m kernels.criss_cross.bench [--output FILE.json] [--implementations triton,xla] [--toy]

Forward, and forward + backward with the gradients of query, key and value, in bfloat16 and float32: time,
memory and error of each, beside PyTorch where that is installed with CUDA. Prints one table and writes
every number to experiments/results/criss_cross_bench.json. Without a GPU, or with --toy, tiny images go
through the interpreter instead, which shows that the program works and says nothing about speed.
"""

import argparse
import itertools
import json
import math
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kernels.criss_cross import IMPLEMENTATIONS, criss_cross_attention, device

ROOT = pathlib.Path(__file__).parents[2]
RESULTS = ROOT / "experiments" / "results" / "criss_cross_bench.json"
DTYPES = ("bfloat16", "float32")
DIRECTIONS = ("forward", "forward+backward")
TORCH = ("torch", "torch.compile")
SETS = 4  # of inputs, at least: a call must not find in the cache what the last one left there

# How a matrix product can be asked for; the floor takes the fastest. The Triton kernels make float32
# products out of three TF32 ones, which is faster than the float32 units.
PRECISIONS = {
    "bfloat16": (jax.lax.Precision.DEFAULT,),
    "float32": (jax.lax.Precision.HIGHEST, jax.lax.DotAlgorithmPreset.TF32_TF32_F32_X3),
}


class Size(NamedTuple):
    """Of one problem: query and key [B, H, W, D], value [B, H, W, C]."""

    batch: int
    height: int
    width: int
    keys: int = 64
    values: int = 512

    @property
    def pixels(self) -> int:
        """Of all images together."""
        return self.batch * self.height * self.width

    @property
    def name(self) -> str:
        """BxHxW."""
        return f"{self.batch}x{self.height}x{self.width}"


class Setup(NamedTuple):
    """What is measured, and for how long."""

    sizes: tuple[Size, ...]
    implementations: tuple[str, ...]
    rounds: int
    round_seconds: float
    rotation_bytes: int  # that the sets of inputs have together, at least: more than any L2 cache
    copied_numbers: int  # float32, for the copy bandwidth
    matrix: int  # side of the matrices, for the matrix rate


FULL = Setup(
    (Size(8, 97, 97), Size(2, 128, 256), Size(16, 64, 64), Size(1, 256, 512)),
    ("triton", "xla", *TORCH),
    rounds=30,
    round_seconds=0.02,
    rotation_bytes=256 * 2**20,
    copied_numbers=2**28,
    matrix=8192,
)
TOY = Setup(
    (Size(1, 9, 7, 8, 32), Size(1, 12, 20, 8, 32)),
    ("triton_interpret", "xla"),
    rounds=3,
    round_seconds=0.0,
    rotation_bytes=0,
    copied_numbers=2**16,
    matrix=64,
)


# --- Time ---


class Program(NamedTuple):
    """Something to time.

    Attributes:
      call: of one set of inputs; returns before the device is done.
      sets: of inputs, which calls take in turn.
      clock: seconds from the start of a batch of calls until the device is done with it.
    """

    call: Callable[..., Any]
    sets: Sequence[tuple[Any, ...]]
    clock: Callable[[Callable[[], Any]], float]


def jax_clock(batch: Callable[[], Any]) -> float:
    """Seconds; JAX has no events on the device. Calls run in order, so the last one's end is the end."""
    start = time.perf_counter()
    jax.block_until_ready(batch())
    return time.perf_counter() - start


def seconds_a_call(program: Program, calls: int) -> float:
    """Of a batch of so many calls: they queue up on the device, so the host's time to start one is hidden."""

    def batch() -> Any:
        result = None
        for n in range(calls):
            result = program.call(*program.sets[n % len(program.sets)])
        return result

    return program.clock(batch) / calls


def calls_a_round(program: Program, seconds: float) -> int:
    """Whole rotations through the sets that take about so many seconds; warms the program up, too."""
    rotation = len(program.sets)
    seconds_a_call(program, rotation)
    return rotation * min(1000, max(1, round(seconds / (rotation * seconds_a_call(program, rotation)))))


def interleaved_seconds(
    programs: dict[str, Program], rounds: int, round_seconds: float
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Seconds a call of every program in every round, and why some have none.

    Every round times each program once: what slows the device for a while slows them all.
    """
    calls, seconds, failures = {}, {name: [] for name in programs}, {}
    for n in range(-1, rounds):
        for name in [x for x in programs if x not in failures]:
            try:
                if n < 0:
                    calls[name] = calls_a_round(programs[name], round_seconds)
                else:
                    seconds[name].append(seconds_a_call(programs[name], calls[name]))
            except Exception as error:  # out of memory is each library's own class
                failures[name] = first_line(error)
    return {name: x for name, x in seconds.items() if name not in failures}, failures


def first_line(error: Exception) -> str:
    """Of what the error says; the name of its class where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


# --- What there is to time ---


def attention(implementation: str, direction: str) -> Callable[..., tuple[jax.Array, ...]]:
    """(query, key, value) -> (out,), or (query, key, value, d_out) -> (out, and the three gradients).

    out is a result of both, as training needs it; else a compiler could leave it uncomputed.
    """

    def forward(query: jax.Array, key: jax.Array, value: jax.Array) -> tuple[jax.Array]:
        return (criss_cross_attention(query, key, value, implementation=implementation),)

    def both(query: jax.Array, key: jax.Array, value: jax.Array, d_out: jax.Array) -> tuple[jax.Array, ...]:
        out, pull = jax.vjp(lambda *x: forward(*x)[0], query, key, value)
        return out, *pull(d_out)

    return forward if direction == "forward" else both


def input_sets(size: Size, dtype: str, rotation_bytes: int) -> list[tuple[jax.Array, ...]]:
    """Several (query, key, value, d_out); normal, with energies of a standard deviation of 1."""

    @jax.jit
    def draw(seed: jax.Array) -> tuple[jax.Array, ...]:
        channels = (size.keys, size.keys, size.values, size.values)
        keys = jax.random.split(jax.random.key(seed), len(channels))
        shape = size[:3]
        query, *rest = (jax.random.normal(k, (*shape, c), dtype) for k, c in zip(keys, channels, strict=True))
        return query * size.keys**-0.5, *rest

    return [draw(seed) for seed in range(set_count(sum(x.nbytes for x in draw(0)), rotation_bytes))]


def set_count(set_bytes: int, rotation_bytes: int) -> int:
    """How many sets of inputs, such that they take at most a quarter of the device's memory."""
    memory = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit", math.inf)
    return int(max(1, min(max(SETS, math.ceil(rotation_bytes / set_bytes)), memory / 4 // set_bytes)))


class Prepared(NamedTuple):
    """A program that has run once: its memory in bytes, and its results for the first set, in float32."""

    program: Program
    memory: int | None
    results: tuple[np.ndarray, ...]


def prepare_jax(name: str, direction: str, sets: list[tuple[jax.Array, ...]]) -> Prepared:
    """Memory is what the compiler planned for temporaries and results."""
    sets = [x[:3] if direction == "forward" else x for x in sets]
    compiled = jax.jit(attention(name, direction)).lower(*sets[0]).compile()
    plan = compiled.memory_analysis()
    memory = plan and plan.temp_size_in_bytes + plan.output_size_in_bytes
    results = tuple(np.asarray(x, np.float32) for x in compiled(*sets[0]))
    return Prepared(Program(compiled, sets, jax_clock), memory, results)


def torch_attend(query: Any, key: Any, value: Any) -> Any:
    """`reference.attend` in PyTorch: the same einsums, softmax in float32."""
    import torch

    itself = torch.eye(query.shape[1], dtype=torch.bool, device=query.device)[None, :, None, :]
    energy_col = torch.einsum("bywd,biwd->bywi", query, key).float().masked_fill(itself, float("-inf"))
    energy_row = torch.einsum("byxd,byjd->byxj", query, key).float()
    maximum = torch.maximum(energy_col.amax(-1, keepdim=True), energy_row.amax(-1, keepdim=True)).detach()
    weight_col, weight_row = torch.exp(energy_col - maximum), torch.exp(energy_row - maximum)
    total = weight_col.sum(-1, keepdim=True) + weight_row.sum(-1, keepdim=True)
    weight_col, weight_row = (weight_col / total).to(value.dtype), (weight_row / total).to(value.dtype)
    return torch.einsum("bywi,biwc->bywc", weight_col, value) + torch.einsum(
        "byxj,byjc->byxc", weight_row, value
    )


def torch_clock(batch: Callable[[], Any]) -> float:
    """Seconds between two events on the device."""
    import torch

    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    batch()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


def prepare_torch(name: str, direction: str, sets: list[tuple[jax.Array, ...]]) -> Prepared:
    """Memory is the most that PyTorch held during a call beyond what it held before."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = False
    torch.cuda.empty_cache()
    torch.compiler.reset()  # a shape must not be compiled as a variation of the last one
    attend = torch.compile(torch_attend, dynamic=False) if name == "torch.compile" else torch_attend

    def forward(query: Any, key: Any, value: Any) -> tuple[Any]:
        with torch.no_grad():
            return (attend(query, key, value),)

    def both(query: Any, key: Any, value: Any, d_out: Any) -> tuple[Any, ...]:
        out = attend(query, key, value)
        return out.detach(), *torch.autograd.grad(out, (query, key, value), d_out)

    call, inputs = (forward, 3) if direction == "forward" else (both, 4)
    sets = [tuple(torch_tensor(x, differentiable=n < 3) for n, x in enumerate(s[:inputs])) for s in sets]
    results = tuple(x.float().cpu().numpy() for x in call(*sets[0]))
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call(*sets[0])
    torch.cuda.synchronize()
    memory = torch.cuda.max_memory_allocated() - before
    return Prepared(Program(call, sets, torch_clock), memory, results)


def torch_tensor(x: jax.Array, differentiable: bool) -> Any:
    """On the GPU, of the same numbers and dtype; through the host, as float32 holds bfloat16 exactly."""
    import torch

    tensor = torch.tensor(np.asarray(x, np.float32), device="cuda").to(getattr(torch, x.dtype.name))
    return tensor.requires_grad_(differentiable)


def unavailable(name: str) -> str | None:
    """Why this implementation cannot run here, or None."""
    if name not in TORCH:
        if name not in IMPLEMENTATIONS:
            return "does not exist in this version of JAX"
        return IMPLEMENTATIONS[name].unavailable()
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: one of its libraries is missing
        return f"cannot be imported ({first_line(error)})"
    return None if torch.cuda.is_available() else "sees no CUDA device"


def runnable(names: Iterable[str]) -> list[str]:
    """Those that can run here; says in one line each why the others are skipped."""
    reasons = {name: unavailable(name) for name in names}
    for name, reason in reasons.items():
        if reason:
            print(f"{name} is skipped: it {reason}.")
    return [name for name, reason in reasons.items() if not reason]


# --- What the device could do at best ---


class Work(NamedTuple):
    """The least that any implementation must do."""

    bytes: int
    operations: int


def least_work(size: Size, dtype: str, direction: str) -> Work:
    """Every input read and every result written once; products of the H + W - 1 keys of each pixel.

    The backward pass reads query, key, value, out and d_out, writes three gradients, and computes the
    weights again.
    """
    d, c = size.keys, size.values
    products = 2 * size.pixels * (size.height + size.width - 1)
    channels, operations = 2 * d + 2 * c, products * (d + c)
    if direction != "forward":
        channels += (2 * d + 3 * c) + (2 * d + c)
        operations += products * (3 * d + 2 * c)
    return Work(size.pixels * channels * jnp.dtype(dtype).itemsize, operations)


class Limits(NamedTuple):
    """What this device was measured to do.

    Attributes:
      copy: bytes a second, read or written.
      matrix: operations a second, by dtype and precision; a multiplication and an addition are two.
      shortest: seconds a call of a program that does nothing: no shorter time can be measured.
    """

    copy: float
    matrix: dict[str, dict[str, float]]
    shortest: float

    def floor(self, work: Work, dtype: str) -> float:
        """Seconds that no implementation can beat."""
        return max(work.bytes / self.copy, work.operations / max(self.matrix[dtype].values()))


def measured_limits(setup: Setup) -> Limits:
    """Of the default device."""

    def program(function: Callable[..., jax.Array], *inputs: jax.Array) -> Program:
        return Program(jax.jit(function), [inputs], jax_clock)

    def product(precision: Any) -> Callable[[jax.Array, jax.Array], jax.Array]:
        return lambda a, b: jax.lax.dot(a, b, precision=precision)

    programs = {
        "nothing": program(lambda x: x + 1, jnp.zeros(())),
        "copy": program(lambda x: x + 1, jnp.zeros(setup.copied_numbers)),
    }
    for dtype, precisions in PRECISIONS.items():
        for n, precision in enumerate(precisions):
            square = jax.random.normal(jax.random.key(n), (setup.matrix, setup.matrix), dtype)
            programs[f"{dtype} {precision.name}"] = program(product(precision), square, square)
    seconds, failures = interleaved_seconds(programs, setup.rounds, setup.round_seconds)
    for name, failure in failures.items():
        print(f"The rate of {name} is not known here: {failure}", file=sys.stderr)
    median = {name: float(np.median(x)) for name, x in seconds.items()}
    matrix = {
        dtype: {
            p.name: 2 * setup.matrix**3 / median[f"{dtype} {p.name}"]
            for p in precisions
            if f"{dtype} {p.name}" in median
        }
        for dtype, precisions in PRECISIONS.items()
    }
    return Limits(2 * 4 * setup.copied_numbers / median["copy"], matrix, median["nothing"])


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
            prepare = prepare_torch if name in TORCH else prepare_jax
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
    case = {"shape": size.name, "keys": size.keys, "values": size.values, "dtype": dtype}
    case |= {"direction": direction, **work._asdict(), "floor_us": 1e6 * medians["floor"]}
    rows = []
    for name in names:
        row = {**case, "implementation": name, "failure": failures.get(name)}
        if name in seconds:
            row |= measured(seconds[name], medians, prepared[name], exact)
        rows.append(row)
    return rows


def measured(
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


def commit() -> str | None:
    """HEAD, with "-dirty" where files differ from it; None where there is no repository."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def write_json(path: pathlib.Path, report: dict[str, Any]) -> None:
    """Whole or not at all: beside, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".part")
    beside.write_text(json.dumps(report, indent=2) + "\n")
    os.replace(beside, path)


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
    ratios = [number(row["time_over"].get(name), ".2f") for name in ("xla", *TORCH, "floor")]
    memory = row["memory_bytes"] and row["memory_bytes"] / 2**20
    errors = [number(row[key], ".1e") for key in ("error_out", "error_gradients")]
    return table_line([*words, *times, *ratios, number(memory, ".1f"), *errors])


def table(report: dict[str, Any]) -> str:
    """All rows, what they were measured on, and what the columns mean."""
    title = f"Criss-cross attention on {report['device']}, JAX {report['jax']}, commit {report['commit']}"
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
    known = dict.fromkeys((*FULL.implementations, *TOY.implementations))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=pathlib.Path, help=f"default: {RESULTS.relative_to(ROOT)}")
    parser.add_argument("--implementations", help=f"of {','.join(known)}; default: all that can run")
    parser.add_argument("--toy", action="store_true", help="tiny images, interpreted; writes no file unasked")
    flags = parser.parse_args(arguments)

    toy = flags.toy or not has_gpu()
    setup, output = (TOY, flags.output) if toy else (FULL, flags.output or RESULTS)
    names = flags.implementations.split(",") if flags.implementations else setup.implementations
    if unknown := [name for name in names if name not in known]:
        parser.error(f"unknown implementations {unknown}; known: {list(known)}")
    if not has_gpu():
        print(f"There is no GPU here but {device.kind()[1]}: times of the kernels cannot be measured.")
    if toy:
        print("Tiny images instead, which show that everything runs; PyTorch is skipped at such sizes.")
    names = runnable(name for name in names if not (toy and name in TORCH))
    if not names:
        sys.exit("Nothing is left to measure.")

    limits = measured_limits(setup)
    report: dict[str, Any] = {
        "toy": toy,
        "device": device.kind()[1],
        "jax": jax.__version__,
        "commit": commit(),
        "limits": limits._asdict(),
        "rows": [],
    }
    cases = list(itertools.product(setup.sizes, DTYPES, DIRECTIONS))
    for n, case in enumerate(cases):
        rows = measured_rows(*case, names, limits, setup)
        times = (f"{x['implementation']} {number(x.get('median_us'), '.0f')}" for x in rows)
        words = f"{case[0].name} {case[1]} {case[2]}"
        print(f"[{n + 1}/{len(cases)}] {words}, us: {', '.join(times)}", file=sys.stderr, flush=True)
        report["rows"] += rows
        if output:  # after every case: a run that is cut short keeps what it has
            write_json(output, report)
    print(table(report))
    if output:
        print(f"Every number is in {output}")


if __name__ == "__main__":
    main()
