"""RoIAlign in the form that this project uses, beside two others: time on this CPU, memory planned for a GPU.

    python -m experiments.roi_align [--rounds 5]

All give the same numbers. "sixteen pixels" adds the sixteen weighted pixels of each cell one after the other,
forward and backward: `ccnet_jax.models.detection.roi_align`. "one gather" takes all sixteen at once and
leaves the gradient to JAX. "matrices" multiplies every level with two matrices of weights for each region, so
that nothing is gathered or scattered. Forward and backward together, of regions of all sizes, 256 channels,
7x7 cells. Writes experiments/results/roi_align.json.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from typing import Any

from kernels.bench import aot  # before JAX starts

import jax  # isort: skip
import jax.numpy as jnp
import numpy as np

from ccnet_jax.common.devices import compiler_options
from ccnet_jax.common.progress import progress_bar
from ccnet_jax.models.detection import roi_align as ours
from ccnet_jax.models.detection.mask_rcnn import ROI_LEVELS, STRIDES
from experiments import markdown
from kernels.bench.measure import ROOT, result_head, sources, write_result

PATH = ROOT / "experiments" / "results" / "roi_align.json"
CHANNELS, CELLS = 256, 7
ON_CPU = (1, 256, 416, 64)  # images, height, width, regions of each
ON_GPU = (2, 800, 1344, 512)
GPU = "h200"

RoIAlign = Callable[[Sequence[jax.Array], jax.Array], jax.Array]


def sixteen_pixels(levels: Sequence[jax.Array], boxes: jax.Array) -> jax.Array:
    """What the network runs."""
    return ours.roi_align(levels, boxes, CELLS, STRIDES[:ROI_LEVELS])


def one_gather(levels: Sequence[jax.Array], boxes: jax.Array) -> jax.Array:
    """All sixteen pixels of every cell in one array; its gradient is derived."""
    sizes = np.array([level.shape[1:3] for level in levels], np.int32)
    strides = np.array(STRIDES[:ROI_LEVELS], np.float32)
    pixels, weights = ours.all_taps(boxes, CELLS, sizes, strides)
    flat = jnp.concatenate([level.reshape(level.shape[0], -1, level.shape[-1]) for level in levels], 1)
    return jax.vmap(lambda flat, pixels, weights: (weights[..., None] * flat[pixels]).sum(0), (0, 1, 1))(
        flat, pixels, weights
    )


def matrices(levels: Sequence[jax.Array], boxes: jax.Array) -> jax.Array:
    """rows x level x columns, of every level, where a region belongs to it."""
    level_of_box = ours.level_of(boxes, len(levels))
    total = jnp.zeros((*boxes.shape[:2], CELLS, CELLS, CHANNELS))
    for number, (level, stride) in enumerate(zip(levels, STRIDES, strict=False)):
        scaled = boxes / stride
        height, width = (jnp.full(boxes.shape[:2], side) for side in level.shape[1:3])
        rows = _weights(scaled[..., 1], scaled[..., 3], height, level.shape[1])
        rows = jnp.where((level_of_box == number)[..., None, None], rows, 0)
        columns = _weights(scaled[..., 0], scaled[..., 2], width, level.shape[2])
        total += jnp.einsum("bnih,bhwc,bnjw->bnijc", rows, level, columns)
    return total


def _weights(low: jax.Array, high: jax.Array, length: jax.Array, side: int) -> jax.Array:
    """Of one axis, [B, n, cells, side]."""
    pixels, weights = ours.axis_taps(low, high, length, CELLS)
    pairs = zip(pixels, weights, strict=True)
    return sum(
        (weight[..., None] * (pixel[..., None] == jnp.arange(side)) for pixel, weight in pairs), jnp.zeros(())
    )


IMPLEMENTATIONS: dict[str, RoIAlign] = {
    "sixteen pixels": sixteen_pixels,
    "one gather": one_gather,
    "matrices": matrices,
}


def gradient_of(function: RoIAlign) -> Callable[..., Any]:
    """(levels, boxes, upstream) -> features and the gradients of the levels."""

    def both(levels: tuple[jax.Array, ...], boxes: jax.Array, upstream: jax.Array) -> Any:
        out, pull = jax.vjp(lambda levels: function(levels, boxes), levels)
        return out, *pull(upstream)

    return both


def shapes(images: int, height: int, width: int, regions: int) -> tuple[Any, Any, Any]:
    """Of the arguments of `gradient_of`'s function."""
    shape = jax.ShapeDtypeStruct
    levels = tuple(
        shape((images, height // s, width // s, CHANNELS), jnp.float32) for s in STRIDES[:ROI_LEVELS]
    )
    cells = shape((images, regions, CELLS, CELLS, CHANNELS), jnp.float32)
    return levels, shape((images, regions, 4), jnp.float32), cells


def arguments(images: int, height: int, width: int, regions: int) -> tuple[Any, Any, Any]:
    """Random ones: regions of 8 pixels a side to those of the whole image."""
    rng = np.random.default_rng(0)
    levels, boxes, upstream = shapes(images, height, width, regions)
    sides = np.exp(rng.uniform(np.log(8), np.log(min(height, width)), (*boxes.shape[:2], 2)))
    corners = rng.uniform(0, 1, sides.shape) * (np.array([width, height]) - sides)
    values = jax.tree.map(lambda x: rng.standard_normal(x.shape).astype(np.float32), (levels, upstream))
    return values[0], np.concatenate([corners, corners + sides], -1).astype(np.float32), values[1]


def seconds_of(rounds: int) -> dict[str, list[float]]:
    """{implementation: seconds of forward and backward in every round}, in turn, after a first call."""
    values = jax.device_put(arguments(*ON_CPU))
    compiled = {
        name: jax.jit(gradient_of(function), compiler_options=compiler_options())
        for name, function in IMPLEMENTATIONS.items()
    }
    found: dict[str, list[float]] = {name: [] for name in compiled}
    for n in progress_bar(range(-1, rounds), unit="round"):
        for name, function in compiled.items():
            start = time.perf_counter()
            jax.block_until_ready(function(*values))
            if n >= 0:
                found[name].append(time.perf_counter() - start)
    return found


def tables(report: dict[str, Any]) -> dict[str, str]:
    """{"forms"}: Markdown, a line for each implementation."""
    lines = []
    for row in report["rows"]:
        times = f"{1e3 * float(np.median(row['seconds'])):.0f}"
        lines.append([row["name"], times, f"{row['temporary_bytes'] / 1e6:.0f}"])
    on_cpu, on_gpu = (f"{n} x {h}x{w}, {r} regions" for n, h, w, r in (ON_CPU, ON_GPU))
    header = ["RoIAlign", f"ms on the CPU, {on_cpu}", f"MB planned for an H200, {on_gpu}"]
    return {"forms": markdown.table(header, lines)}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    flags = parser.parse_args()
    if missing := aot.unavailable():
        parser.error(missing)
    seconds = seconds_of(flags.rounds)
    report = result_head() | {"sources": sources("ccnet_jax/models/detection", "experiments/roi_align.py")}
    report["rows"] = []
    for name, function in progress_bar(IMPLEMENTATIONS.items(), unit="program", desc="compiling"):
        plan = aot.compile_for(GPU, gradient_of(function), *shapes(*ON_GPU))
        row = {"name": name, "seconds": seconds[name], "temporary_bytes": plan.temporary_bytes}
        report["rows"].append(row)
    write_result(PATH, report)
    print(tables(report)["forms"])


if __name__ == "__main__":
    main()
