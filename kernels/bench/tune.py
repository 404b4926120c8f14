"""Finds the fastest `Blocks` of the Triton kernels on this GPU and prints rows for `blocks.TABLE`.

    python -m kernels.bench.tune [--shapes 8x97x97,2x128x256] [--dtypes bfloat16,float32] [--toy]

For every line length among the shapes, every dtype and both directions, it compiles all sensible candidates,
times each one shortly, and then times the best of them beside the default for longer. Ctrl-C ends early and
prints the rows found so far. --output FILE.json also writes them, after each one, for `bench --blocks`; rows
that it holds already, of this device and these sources, are kept. --toy shows, without a GPU, that the
program runs.
"""

import argparse
import concurrent.futures
import contextlib
import dataclasses
import itertools
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..criss_cross import device, pallas_triton
from ..criss_cross.blocks import Blocks, Key, default_blocks, key_of, power_of_two
from . import __main__ as bench
from . import bench_cases
from .bench_cases import DTYPES, Size
from .measure import (
    Program,
    interleaved_seconds,
    jax_clock,
    result_head,
    resume_report,
    sources,
    write_result,
)
from .programs import Parser, ending_well, result_file

DIRECTIONS = ("forward", "backward")
FINALISTS = 5
LONGEST = 4096  # a batch or a side
REGISTERS = 160  # of a thread's 255, for unfinished sums; operands need the rest


class Effort(NamedTuple):
    """How long each program is timed, at first and among the best."""

    screening: tuple[int, float]  # rounds, seconds a round
    final: tuple[int, float]
    rotation_bytes: int


FULL = Effort((3, 0.004), (20, 0.02), bench.FULL.rotation_bytes)
TOY = Effort((1, 0.0), (2, 0.0), 0)


class Problem(NamedTuple):
    """One row of the table: a direction and dtype on square images of one line length."""

    direction: str
    dtype: str
    size: Size
    candidates: list[Blocks]  # the default is the first

    @property
    def name(self) -> str:
        """Direction, dtype and size, for messages."""
        return f"{self.direction} {self.dtype} {self.size.name}"

    @property
    def key(self) -> Key:
        """Of its row in the table."""
        longest = power_of_two(self.size.height)
        return device.generation(), self.direction, jnp.dtype(self.dtype).itemsize, longest


def squares(shapes: Sequence[Size]) -> list[Size]:
    """Square images of the shapes' line lengths, with about as many pixels; shortest first.

    Lengths that share a row of the table (97 and 128, for example) give one image, of the first length.
    """
    found: dict[int, Size] = {}
    for shape in shapes:
        for length in (shape.height, shape.width):
            batch = max(1, round(shape.pixels / length**2))
            square = shape._replace(batch=batch, height=length, width=length)
            found.setdefault(power_of_two(length), square)
    return [found[longest] for longest in sorted(found)]


def registers(direction: str, size: Size, blocks: Blocks) -> float:
    """About how many numbers of unfinished sums one thread holds."""
    channels = max(blocks.channels, min(power_of_two(size.key_channels), 128))
    if direction == "forward":
        held = blocks.query * (blocks.key + channels)
    else:  # weights and their gradient, and the sum of one output
        held = 2 * blocks.query * blocks.key + max(blocks.query, blocks.key) * channels
    return held / (32 * blocks.warps)


def sensible_blocks(direction: str, dtype: str, size: Size) -> list[Blocks]:
    """The default, then every candidate that fits the line and the registers and occupies its threads."""
    whole = power_of_two(size.height)
    candidates = itertools.product((32, 64, 128), (32, 64, 128, 256), (32, 64, 128), (4, 8), (1, 2, 3))
    chosen = [default_blocks(direction, size.height, jnp.dtype(dtype), device.generation())]
    for blocks in itertools.starmap(Blocks, candidates):
        fits = max(blocks.query, blocks.key) <= max(whole, 32) and blocks.key >= blocks.query / 2
        busy = blocks.query * blocks.key >= 16 * 32 * blocks.warps  # 16 energies a thread, or threads idle
        if fits and busy and registers(direction, size, blocks) <= REGISTERS:
            chosen.append(blocks)
    return list(dict.fromkeys(chosen))


def toy_blocks(direction: str, dtype: str, size: Size) -> list[Blocks]:
    """The default and one more."""
    default = default_blocks(direction, size.height, jnp.dtype(dtype), device.generation())
    return [default, Blocks(16, 16, 16, 4, 1)]


def input_sets(problem: Problem, effort: Effort, interpret: bool) -> list[tuple[jax.Array, ...]]:
    """Several (query, key, value), for backward with d_out, lse and delta."""
    sets = bench_cases.input_sets(problem.size, problem.dtype, effort.rotation_bytes)
    if problem.direction == "forward":
        return [x[:3] for x in sets]

    @jax.jit
    def with_residuals(*x: jax.Array) -> tuple[jax.Array, ...]:
        out, lse = pallas_triton.forward_passes(x[:3], problem.size.key_channels, interpret=interpret)
        return *x, lse, (x[3].astype(jnp.float32) * out.astype(jnp.float32)).sum(-1)

    return [with_residuals(*x) for x in sets]


def compiled_passes(
    problem: Problem, blocks: Blocks, inputs: tuple[jax.Array, ...], interpret: bool
) -> Callable[..., tuple[jax.Array, ...]] | None:
    """The passes of one direction over columns and rows; None where the GPU has no room for them."""
    key_channels = problem.size.key_channels

    def forward(*x: jax.Array) -> tuple[jax.Array, ...]:
        return pallas_triton.forward_passes(x, key_channels, blocks, interpret=interpret)

    def backward(*x: jax.Array) -> tuple[jax.Array, ...]:
        d_out, lse, delta = x[3:]
        return pallas_triton.backward_passes(
            x[:3], key_channels, d_out, lse, delta, blocks, interpret=interpret
        )

    passes = forward if problem.direction == "forward" else backward
    try:
        return jax.jit(passes).lower(*inputs).compile()
    except Exception:  # too much shared memory, too many registers: no candidate, whatever the class
        return None


class Progress:
    """A line on stderr that says how much is done and how long the rest may take."""

    def __init__(self, total: int) -> None:
        self.total, self.done, self.start = total, 0, time.monotonic()

    def step(self, what: str) -> None:
        """One more candidate is compiled."""
        self.done += 1
        left = (time.monotonic() - self.start) / self.done * (self.total - self.done)
        line = f"[{self.done}/{self.total}] {what}, about {left / 60:.1f} min left"
        # A terminal shows one line that changes; a log gets one in twenty.
        if sys.stderr.isatty():
            print(f"\r{line}\033[K", end="", file=sys.stderr, flush=True)
        elif self.done % 20 == 0 or self.done == self.total:
            print(line, file=sys.stderr, flush=True)

    def say(self, what: str) -> None:
        """A line of its own."""
        print(("\r\033[K" if sys.stderr.isatty() else "") + what, file=sys.stderr, flush=True)


def compiled_candidates(
    problem: Problem, inputs: tuple[jax.Array, ...], progress: Progress, interpret: bool
) -> dict[Blocks, Callable[..., Any]]:
    """Those that compile. All are compiled, in threads, before any is timed: compiling disturbs timing."""
    pool = concurrent.futures.ThreadPoolExecutor(os.cpu_count())
    try:
        jobs = [pool.submit(compiled_passes, problem, x, inputs, interpret) for x in problem.candidates]
        for _ in concurrent.futures.as_completed(jobs):
            progress.step(problem.name)
        passes = [job.result() for job in jobs]
    finally:
        pool.shutdown(cancel_futures=True)
    return {blocks: x for blocks, x in zip(problem.candidates, passes, strict=True) if x}


def agree(results: tuple[jax.Array, ...], wanted: tuple[jax.Array, ...]) -> bool:
    """Whether a candidate's results are the default's, up to rounding: compilers have bugs, too."""
    for result, want in zip(results, wanted, strict=True):
        got, exact = np.asarray(result, np.float32), np.asarray(want, np.float32)
        if not np.abs(got - exact).max() <= 0.02 * np.abs(exact).max():  # true for nan, too
            return False
    return True


def median_seconds(
    passes: dict[Blocks, Callable[..., Any]], sets: list[tuple[jax.Array, ...]], effort: tuple[int, float]
) -> dict[Blocks, float]:
    """Of a call; without those that failed to run."""
    programs = {blocks: Program(call, sets, jax_clock) for blocks, call in passes.items()}
    seconds, _ = interleaved_seconds(programs, *effort)
    return {blocks: float(np.median(x)) for blocks, x in seconds.items()}


def fastest_row(
    problem: Problem, effort: Effort, progress: Progress, interpret: bool
) -> dict[str, Any] | None:
    """The row for `blocks.TABLE` with its times in microseconds; None where no candidate runs."""
    sets = input_sets(problem, effort, interpret)
    default = problem.candidates[0]
    passes = compiled_candidates(problem, sets[0], progress, interpret)
    screened = median_seconds(passes, sets, effort.screening)
    finalists = sorted(screened, key=screened.__getitem__)[:FINALISTS]
    if default in screened:
        wanted = passes[default](*sets[0])
        finalists = [x for x in finalists if agree(passes[x](*sets[0]), wanted)]
        finalists = list(dict.fromkeys([*finalists, default]))
    final = median_seconds({blocks: passes[blocks] for blocks in finalists}, sets, effort.final)
    tried = len(problem.candidates)
    progress.say(f"{problem.name}: {tried - len(screened)} of {tried} candidates do not compile or run")
    if not final:
        return None
    best = min(final, key=final.__getitem__)
    row = dict(zip(("generation", "direction", "bytes", "longest"), problem.key, strict=True))
    default_us = 1e6 * final[default] if default in final else None
    times = {"us": 1e6 * final[best], "default_us": default_us}
    return {**row, "blocks": list(dataclasses.astuple(best)), **times}


def row_line(row: dict[str, Any]) -> str:
    """The line for `blocks.TABLE`."""
    generation, direction, bytes_, longest = key_of(row)
    values = ", ".join(map(str, row["blocks"]))
    of_default = "fails" if row["default_us"] is None else f"{row['default_us']:.0f} us"
    key = f'("{generation}", "{direction}", {bytes_}, {longest})'
    return f"{key}: Blocks({values}),  # {row['us']:.0f} us, default {of_default}"


def rows(problems: list[Problem], effort: Effort, interpret: bool) -> Iterator[dict[str, Any]]:
    """As they are found."""
    progress = Progress(sum(len(x.candidates) for x in problems))
    for problem in problems:
        row = fastest_row(problem, effort, progress, interpret)
        if row:
            progress.say(row_line(row))
            yield row


def parsed_shapes(text: str) -> list[Size]:
    """Of "8x97x97,2x128x256". Raises ArgumentTypeError for another text, and for sides above `LONGEST`."""
    parts = [shape.split("x") for shape in text.split(",")]
    if not all(len(sides) == 3 and all(_is_side(side) for side in sides) for sides in parts):
        raise argparse.ArgumentTypeError(
            f"{text[:60]!r} must be BATCHxHEIGHTxWIDTH,... in whole numbers from 1 to {LONGEST}"
        )
    return [Size(*map(int, sides)) for sides in parts]


def _is_side(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 6 and 1 <= int(text) <= LONGEST


def parsed_dtypes(text: str) -> list[str]:
    """Of "bfloat16,float32". Raises ArgumentTypeError for others."""
    dtypes = text.split(",")
    if not set(dtypes) <= set(DTYPES):
        raise argparse.ArgumentTypeError(f"{text[:60]!r} must be of {', '.join(DTYPES)}, behind commas")
    return dtypes


def main(arguments: Sequence[str] | None = None) -> None:
    """The program."""
    parser = Parser("kernels.bench.tune", __doc__)
    parser.add_argument("--shapes", type=parsed_shapes, help="BxHxW,...; default: those of bench")
    parser.add_argument("--dtypes", type=parsed_dtypes, help="default: both of bench, with --toy one")
    parser.add_argument("--output", type=result_file, help="JSON file; rows that it holds are kept")
    parser.add_argument("--toy", action="store_true", help="two candidates on a tiny image, interpreted")
    flags = parser.parse_args(arguments)

    instead = device.no_modern_nvidia_gpu()
    if instead and not flags.toy:
        sys.exit(f"Tuning needs an NVIDIA GPU of compute capability 8.0 or newer; this is {instead}.")
    shapes: Sequence[Size] = flags.shapes or bench.FULL.sizes
    all_dtypes: Sequence[str] = DTYPES
    effort, candidates = FULL, sensible_blocks
    if flags.toy:
        print("# TOY SIZE: the interpreter's times mean nothing")
        shapes, effort, candidates, all_dtypes = [Size(1, 6, 6, 8, 32)], TOY, toy_blocks, DTYPES[:1]
    dtypes = flags.dtypes or all_dtypes
    problems = [
        Problem(direction, dtype, size, candidates(direction, dtype, size))
        for direction, dtype, size in itertools.product(DIRECTIONS, dtypes, squares(shapes))
    ]
    report = {**result_head(), "sources": sources("kernels"), "toy": flags.toy, "rows": [], "finished": False}
    if flags.output:
        report = resume_report(flags.output, report, ("rows", "finished"))
    known = {key_of(row) for row in report["rows"]}
    problems = [problem for problem in problems if problem.key not in known]
    with contextlib.suppress(KeyboardInterrupt):  # Ctrl-C: print the rows found so far
        for row in rows(problems, effort, interpret=flags.toy):
            report["rows"].append(row | {"commit": report["commit"]})
            if flags.output:
                write_result(flags.output, report)
        report["finished"] |= flags.shapes is None and set(dtypes) == set(all_dtypes)
    if flags.output:
        write_result(flags.output, report)
    print("\n".join(map(row_line, report["rows"])))


if __name__ == "__main__":
    with ending_well():
        main()
