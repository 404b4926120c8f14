"""The cost tables of the paper and of mmsegmentation, beside what is counted and planned here: no GPU needed.

    python -m experiments.cost [--part extra|growth|training|remat ...]

Four parts, of which each takes minutes:

  extra     the paper's Tables 3 and 5: operations and memory that a context module adds to the baseline, for
            an image of 769x769, with PSP and ASPP
  growth    the same against the side of the image, from 257 to 2049 pixels
  training  mmsegmentation's column "Mem (GB)", one row for each config of its model zoo
  remat     memory and operations of a training step under each `model.remat`

Operations are counted from the traced program, with criss-cross attention by its definition. Memory is what
XLA plans for an H200. Writes experiments/results/cost.json after every row; started again, it keeps the rows
of the same versions and sources and makes those that are missing. One part alone is made only if the others
are of the same versions and sources, too. What compiling for a GPU needs is in `kernels.bench.aot`.
"""

import argparse
import contextlib
import dataclasses
import functools
import json
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from kernels.bench import aot  # before JAX starts

import jax  # isort: skip
import jax.numpy as jnp

from ccnet_jax.common.errors import UserError
from ccnet_jax.common.progress import progress_bar
from ccnet_jax.config import command_line, config_files
from ccnet_jax.config.config import Config, parse
from ccnet_jax.config.config_files import ConfigName
from ccnet_jax.models.ccnet import ContextModule
from ccnet_jax.models.contexts import ContextSettings
from ccnet_jax.models.layers import REMAT
from ccnet_jax.tools.costs import memory
from ccnet_jax.tools.costs.flops import COUNTED, counted_attention, operations, total
from ccnet_jax.tools.costs.parts import training_operations
from ccnet_jax.tools.costs.sizes import class_count
from experiments import markdown, published
from kernels.bench.measure import ROOT, result_head, resume_report, sources, write_result

PATH = ROOT / "experiments" / "results" / "cost.json"
GPU = "h200"
CHANNELS = 512
GPUS_OF_MMSEG = 4  # its batches of 8 and 16 are those of four GPUs
SIDES = (257, 513, 769, 1025, 1537, 2049)  # of images; features have an eighth, and one more
DTYPES = ("float32", "bfloat16")

# {name: (context, loops, backend)}; the backends "triton" and "xla" are the fused kernels and the einsums
MODULES = {
    "RCCA, 1 loop, fused": ("rcca", 1, "triton"),
    "RCCA, 2 loops, fused": ("rcca", 2, "triton"),
    "RCCA, 3 loops, fused": ("rcca", 3, "triton"),
    "RCCA, 1 loop, einsum": ("rcca", 1, "xla"),
    "RCCA, 2 loops, einsum": ("rcca", 2, "xla"),
    "RCCA, 3 loops, einsum": ("rcca", 3, "xla"),
    "Non-local": ("nonlocal", 1, None),
    "PSP": ("psp", 1, None),
    "ASPP": ("aspp", 1, None),
}
RECOMPUTED = ("ade20k:mmseg-r50-512x512-80k", "cityscapes:mmseg-r101-769x769-80k")
GROWING = ("RCCA, 2 loops, fused", "RCCA, 2 loops, einsum", "Non-local", "PSP", "ASPP")
# What the rows depend on.
SOURCES = (
    *("kernels", "configs", "ccnet_jax/config/config.py", "ccnet_jax/config/recipes.py"),
    "experiments/cost.py",
    *(f"ccnet_jax/{room}" for room in ("models", "training", "evaluation", "tools/costs")),
)
MMSEG = [name for name in published.published_scores() if ":mmseg-" in name]

Row = dict[str, Any]


# --- Rows ---


def features(image: int) -> int:
    """The side of the feature map of an image whose side is 8 n + 1."""
    return (image - 1) // 8 + 1


def module_operations(name: str, side: int) -> int:
    """Products of a context module for features of side x side, forward."""
    context, loops, backend = MODULES[name]
    with counted_attention():
        module, variables, x = _module(context, loops, backend and COUNTED, side, "float32")
        return total(operations(lambda v, x: module.apply(v, x, False), variables, x)).products


def module_bytes(name: str, side: int, dtype: str) -> tuple[int, int]:
    """Planned temporaries of a context module: forward, and forward + backward of the sum of squares."""
    module, variables, x = _module(*MODULES[name], side, dtype)

    def loss(params: Any, rest: Any, x: jax.Array) -> jax.Array:
        out, _ = module.apply({"params": params, **rest}, x, True, mutable=["batch_stats"])
        return (out.astype(jnp.float32) ** 2).sum()

    rest = {key: value for key, value in variables.items() if key != "params"}
    forward = aot.compile_for(GPU, lambda v, x: module.apply(v, x, False), variables, x)
    both = aot.compile_for(GPU, jax.grad(loss, (0, 2)), variables["params"], rest, x)
    return forward.temporary_bytes, both.temporary_bytes


def _module(
    context: str, loops: int, backend: str | None, side: int, dtype: str
) -> tuple[ContextModule, Any, jax.ShapeDtypeStruct]:
    """A context module, the shapes of its variables, and of its input."""
    settings = ContextSettings(loops, backend, dtype=jnp.dtype(dtype))
    x = jax.ShapeDtypeStruct((1, side, side, CHANNELS), jnp.dtype(dtype))
    twin = ContextModule(context, dataclasses.replace(settings, implementation="xla"))
    small = jax.ShapeDtypeStruct((1, 8, 8, CHANNELS), x.dtype)  # parameters do not depend on the size
    variables = jax.eval_shape(lambda x: twin.init(jax.random.key(0), x, False), small)
    return ContextModule(context, settings), variables, x


@functools.cache
def step_peak(context: str, loops: int, backend: str | None) -> int:
    """Planned memory of a training step of one image of 769x769, ResNet-50, float32."""
    config = _config("cityscapes:official-r50-769x769-60k")
    model = dataclasses.replace(config.model, context=context, loops=loops, implementation=backend)
    changed = dataclasses.replace(config, model=model)
    return memory.plan_training(changed, class_count(changed), 1, GPU).peak_bytes


def extra_row(name: str) -> Row:
    """What a module adds to the baseline, for an image of 769x769."""
    context, loops, backend = MODULES[name]
    forward, both = module_bytes(name, features(769), "float32")
    of_paper = {"rcca": f"RCCA, R = {loops}", "nonlocal": "Non-local"}.get(context, "")
    gflops, megabytes = published.COSTS.get(of_paper, (None, None))
    return {
        "products": module_operations(name, features(769)),
        "forward_bytes": forward,
        "forward_backward_bytes": both,
        "training_step_bytes": step_peak(context, loops, backend) - step_peak("none", 1, None),
        "published_gflops": gflops,
        "published_megabytes": megabytes,
    }


def growth_row(name: str, image: int) -> Row:
    """Operations and memory of a module alone, for an image of image x image."""
    forward, both = module_bytes(name, features(image), "bfloat16")
    products = module_operations(name, features(image))
    return {"products": products, "forward_bytes": forward, "forward_backward_bytes": both}


def training_row(name: str, dtype: str) -> Row:
    """Planned memory of a training step with mmsegmentation's batch of one GPU."""
    config = _config(name)
    # the schedule's length does not change the program's memory: rows that differ in it share a compilation
    plain = dataclasses.replace(config, dtype=dtype, steps=1000)
    batch_size = config.batch_size // GPUS_OF_MMSEG
    peak, temporary = _training_memory(plain, batch_size)
    measured = published.MMSEG_COSTS.get(name)
    return {
        "batch_size": batch_size,
        "peak_bytes": peak,
        "temporary_bytes": temporary,
        "published_gigabytes": measured.gigabytes if measured else None,
    }


def remat_row(name: str, dtype: str, remat: str) -> Row:
    """Planned memory and operations of a training step with mmsegmentation's batch of one GPU."""
    config = _config(name)
    model = dataclasses.replace(config.model, remat=remat)
    changed = dataclasses.replace(config, dtype=dtype, model=model, steps=1000)
    batch_size = config.batch_size // GPUS_OF_MMSEG
    peak, temporary = _training_memory(changed, batch_size)
    passes = training_operations(changed, class_count(changed), batch_size)
    products = sum(found.products for parts in passes.values() for found in parts.values())
    return {
        "batch_size": batch_size,
        "peak_bytes": peak,
        "temporary_bytes": temporary,
        "products": products,
    }


@functools.cache
def _training_memory(config: Config, batch_size: int) -> tuple[int, int]:
    report = memory.plan_training(config, class_count(config), batch_size, GPU)
    return report.peak_bytes, report.temporary_bytes


def _config(name: str) -> Config:
    return parse(config_files.load(ConfigName.of(name)))


# --- Tables ---


def _extra_table(rows: list[Row]) -> str:
    body = []
    for row in rows:
        sizes = (row[key] for key in ("forward_bytes", "forward_backward_bytes", "training_step_bytes"))
        published = (row["published_gflops"], row["published_megabytes"])
        body.append(
            [row["name"], f"{row['products'] / 1e9:.2f}", _or_dash(published[0])]
            + [f"{size / 1e6:.0f}" for size in sizes]
            + [_or_dash(published[1])]
        )
    header = ["module", "GFLOP", "GFLOP, paper", "MB, forward", "MB, forward + backward"]
    return markdown.table([*header, "MB, training step", "MB, paper"], body)


def _growth_table(rows: list[Row]) -> str:
    images = list(dict.fromkeys(row["image"] for row in rows))
    cells = {(row["name"], row["image"]): row for row in rows}

    def cell(row: Row | None) -> str:
        if row is None:
            return ""
        return f"{row['products'] / 1e9:.1f} / {row['forward_backward_bytes'] / 1e6:.0f}"

    body = [
        [name, *(cell(cells.get((name, image))) for image in images)]
        for name in dict.fromkeys(row["name"] for row in rows)
    ]
    return markdown.table(["GFLOP / MB", *(f"{image}x{image}" for image in images)], body)


def _training_table(rows: list[Row]) -> str:
    dtypes = list(dict.fromkeys(row["dtype"] for row in rows))
    cells = {(row["name"], row["dtype"]): row for row in rows}
    body = []
    for name in dict.fromkeys(row["name"] for row in rows):
        mine = [cells.get((name, dtype)) for dtype in dtypes]
        first = next(row for row in mine if row)
        planned = ["" if row is None else f"{row['peak_bytes'] / 1e9:.2f}" for row in mine]
        body.append([f"`{name}`", str(first["batch_size"]), _or_dash(first["published_gigabytes"]), *planned])
    header = ["config", "images a GPU", "GB, mmsegmentation", *(f"GB planned, {x}" for x in dtypes)]
    return markdown.table(header, body)


def _remat_table(rows: list[Row]) -> str:
    tera = [f"{row['products'] / 1e12:.2f}" for row in rows]
    kept = {
        (row["name"], row["dtype"]): products
        for row, products in zip(rows, tera, strict=True)
        if row["remat"] == "none"
    }
    body = []
    for row, products in zip(rows, tera, strict=True):
        more = 100 * (markdown.ratio(products, kept[row["name"], row["dtype"]]) - 1)
        named = [f"`{row['name']}`", str(row["batch_size"]), row["dtype"], f"`{row['remat']}`"]
        numbers = [
            f"{row['temporary_bytes'] / 1e9:.2f}",
            products,
            f"{more:.0f} %",
        ]
        body.append([*named, *numbers])
    header = [
        "config",
        "images",
        "dtype",
        "`model.remat`",
        "GB beside the weights",
        "TFLOP",
        "more than `none`",
    ]
    return markdown.table(header, body)


def _or_dash(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"


# --- The parts ---


class Part(NamedTuple):
    """One part.

    Attributes:
      keys: what identifies each row.
      make: a row, from the values of its key.
      table: the rows in Markdown.
    """

    keys: list[Row]
    make: Callable[..., Row]
    table: Callable[[list[Row]], str]


PARTS = {
    "extra": Part([{"name": name} for name in MODULES], extra_row, _extra_table),
    "growth": Part(
        [{"name": name, "image": side} for name in GROWING for side in SIDES], growth_row, _growth_table
    ),
    "training": Part(
        [{"name": name, "dtype": dtype} for dtype in DTYPES for name in MMSEG], training_row, _training_table
    ),
    "remat": Part(
        [
            {"name": name, "dtype": dtype, "remat": remat}
            for name in RECOMPUTED
            for dtype in DTYPES
            for remat in REMAT
        ],
        remat_row,
        _remat_table,
    ),
}


def tables(report: dict[str, Any]) -> dict[str, str]:
    """{name: table in Markdown} of what `main` wrote; only the parts that were made."""
    return {name: part.table(report[name]) for name, part in PARTS.items() if report.get(name)}


# --- The file ---


def make(parts: Collection[str]) -> dict[str, Any]:
    """The report, with every row of the parts; the file is written after each.

    Raises UserError where rows of other parts would be lost, since they are of other versions or sources.
    """
    report = result_head(aot.device_name(GPU)) | {"sources": sources(*SOURCES)}
    report = resume_report(PATH, report | {part: [] for part in PARTS}, tuple(PARTS))
    before: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):
        before = json.loads(PATH.read_text())
    others = [part for part in PARTS if part not in parts]
    if lost := [part for part in others if len(before.get(part, [])) > len(report[part])]:
        raise UserError(
            f"{PATH} has rows of the part {lost[0]} from other versions or sources, which would be lost; "
            "make all parts, without --part, or move the file away"
        )
    missing = [
        (part, key)
        for part in parts
        for key in PARTS[part].keys
        if not any(key.items() <= row.items() for row in report[part])
    ]
    for part, key in progress_bar(missing, unit="row"):
        keys = PARTS[part].keys
        rows = [*report[part], key | PARTS[part].make(*key.values())]
        report[part] = sorted(rows, key=lambda row: keys.index({name: row[name] for name in keys[0]}))
        write_result(PATH, report)
    return report


def main() -> None:
    """Make what is missing, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", action="append", choices=list(PARTS), help="only this one; default all")
    arguments = parser.parse_args()
    if missing := memory.missing_reason():
        parser.error(missing)
    for name, table in tables(make(arguments.part or PARTS)).items():
        print(f"{name}\n\n{table}")


if __name__ == "__main__":
    command_line.run(main)
