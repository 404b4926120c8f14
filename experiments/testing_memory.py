"""Device memory of testing a 1024x2048 picture, as XLA plans it for an H200: no GPU needed.

    python -m experiments.testing_memory [--depth 101]

For 19 and for 150 classes, float32, batch 1: whole, in windows of 769x769 by 513, and at the largest of the
multi-scale ratios (1.75, whole, probabilities summed). Of every step of a prediction it adds up what lies in
memory: weights, picture, sums, logits and the step's temporaries; the largest step counts. Prints GB, and
writes experiments/results/testing_memory.json. What compiling for a GPU needs is in `kernels.aot`.
"""

import argparse
from collections.abc import Callable
from typing import Any

from kernels import aot  # before JAX starts

import jax  # isort: skip
import jax.numpy as jnp

from ccnet_jax.evaluation.sliding_window import WINDOWS_AT_ONCE, add_windows
from ccnet_jax.evaluation.upsampling import add_upsampled, largest_upsampled, row_blocks
from ccnet_jax.models.ccnet import CCNet
from ccnet_jax.models.upsampling import Upsampling, upsampling_matrices
from ccnet_jax.progress import progress_bar
from experiments import markdown
from kernels.measure import ROOT, result_head, write_result

RESULTS = ROOT / "experiments" / "results"
PICTURE = (1024, 2048)


def size(tree: object) -> int:
    """Bytes of a tree of arrays or shapes."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def on_any(model: CCNet) -> CCNet:
    """The same network with the attention that any device can trace."""
    return model.clone(implementation="xla")


def planned(function: Callable, *arguments: object) -> int:
    """The temporaries of a program on an H200, in bytes."""
    return aot.compile_for("h200", function, *arguments).temporary_bytes


def steps(model: CCNet, variables: object, mode: str) -> dict[str, int]:
    """{step: bytes that lie in memory while it runs}."""
    scale = 1.75 if mode == "multi-scale" else 1.0
    input_size = int(PICTURE[0] * scale), int(PICTURE[1] * scale)
    window, at_once = ((769, 769), WINDOWS_AT_ONCE) if mode == "slide" else (input_size, 1)
    x = jax.ShapeDtypeStruct((1, *input_size, 3), jnp.float32)
    windows = jax.ShapeDtypeStruct((at_once, *window, 3), jnp.float32)
    logits = jax.eval_shape(lambda v, x: on_any(model).apply(v, x, upsample=False)[0], variables, windows)
    full = jax.ShapeDtypeStruct((1, *input_size, model.num_classes), jnp.float32)
    held = size((variables, x))
    if mode != "whole":
        held += size(full) if mode == "slide" else PICTURE[0] * PICTURE[1] * model.num_classes * 4
    network = planned(lambda v, x: model.apply(v, x, upsample=False)[0], variables, windows)
    found = {"network": held + size((windows, logits)) + network}
    if mode == "slide":
        corners = jax.ShapeDtypeStruct((at_once, 2), jnp.int32)
        weights = jax.ShapeDtypeStruct((at_once,), jnp.float32)

        def add(total: jax.Array, logits: jax.Array, corners: jax.Array, weights: jax.Array) -> jax.Array:
            return add_windows(total, logits, corners, weights, window, model.aligned)

        found["add windows"] = held + size(logits) + planned(add, full, logits, corners, weights)
        found["largest"] = held + planned(largest_upsampled, full, None)
        return found
    blocks = row_blocks((1, *PICTURE, 3), model.num_classes)
    upsampling = upsampling_matrices(
        ((logits.shape[1], logits.shape[2]), input_size, PICTURE), model.aligned, blocks
    )
    if mode == "whole":
        found["largest"] = held + size(logits) + planned(largest_upsampled, logits, upsampling)
        return found
    total = jax.ShapeDtypeStruct((1, *blocks, PICTURE[1], model.num_classes), jnp.float32)

    def add_softmax(total: jax.Array, logits: jax.Array, upsampling: Upsampling) -> jax.Array:
        return add_upsampled(total, logits, upsampling, True)

    found["add"] = held + size(logits) + planned(add_softmax, total, logits, upsampling)
    return found


def tables(report: dict[str, Any]) -> dict[str, str]:
    """{"modes"}: Markdown, a line for each mode, the largest step's GB for each number of classes."""
    rows = report["rows"]
    counts = list(dict.fromkeys(row["classes"] for row in rows))
    lines = []
    for mode in dict.fromkeys(row["mode"] for row in rows):
        largest = {row["classes"]: max(row["steps"].values()) / 1e9 for row in rows if row["mode"] == mode}
        lines.append([mode, *(f"{largest[count]:.1f}" for count in counts)])
    return {"modes": markdown.table(["GB", *(f"{count} classes" for count in counts)], lines)}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--depth", type=int, default=101)
    arguments = parser.parse_args()
    if missing := aot.unavailable():
        parser.error(missing)
    head = result_head(aot.device_name("h200"))
    rows = []
    modes = [(mode, classes) for mode in ("whole", "slide", "multi-scale") for classes in (19, 150)]
    for mode, classes in progress_bar(modes, unit="case"):
        model = CCNet(classes, arguments.depth, "mmseg", implementation="triton")
        small = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.uint8)
        variables = jax.eval_shape(on_any(model).init, jax.random.key(0), small)
        rows.append({"mode": mode, "classes": classes, "steps": steps(model, variables, mode)})
    report = {**head, "depth": arguments.depth, "rows": rows}
    print(tables(report)["modes"])
    write_result(RESULTS / "testing_memory.json", report)


if __name__ == "__main__":
    main()
