"""Device memory of RCCA and of Non-local attention, as XLA plans it for an H200: no GPU needed.

    python -m experiments.attention_memory [--plot]

Compiles the whole module (projections included), batch 1, C = 512, for the paper's sizes: forward, and
forward + backward with the gradients of input and parameters of sum(out^2). The forms of RCCA that were
not taken (see its docstring) stand beside the one that was. Prints the temporaries in MB, and writes
experiments/results/attention_memory.json after every row; started again, it keeps the rows of the same
versions and sources. With --plot also how they grow with the side of a square feature map,
attention_memory.png. What compiling for a GPU needs is in `kernels.bench.aot`; the plot needs matplotlib.
"""

import argparse
import pathlib
from collections.abc import Callable
from typing import Any, cast

from kernels.bench import aot  # before JAX starts

import flax.linen as nn  # isort: skip
import jax
import jax.numpy as jnp

from ccnet_jax.common.progress import progress_bar
from ccnet_jax.models.contexts.nonlocal_ import NonLocal
from ccnet_jax.models.criss_cross import RCCA, CrissCrossAttention
from experiments import markdown
from kernels.bench.measure import ROOT, result_head, resume_report, sources, write_result


class OtherRCCA(nn.Module):
    """Two loops of RCCA in a form that `ccnet_jax.models.criss_cross` did not take: see its docstring.

    Attributes:
      form: "by hand", two calls with a barrier between; "no barrier", the scan without its barrier;
        "not unrolled", the scan as a loop on the device.
    """

    form: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x: [B, H, W, C] -> [B, H, W, C]."""
        attention = CrissCrossAttention(implementation="triton", name="attention")
        if self.form == "by hand":
            return attention(jax.lax.optimization_barrier(attention(x)))

        def loop(attention: nn.Module, x: jax.Array, _: None) -> tuple[jax.Array, None]:
            return attention(x if self.form == "no barrier" else jax.lax.optimization_barrier(x)), None

        unroll = 1 if self.form == "not unrolled" else 2
        scan = nn.scan(
            loop, variable_broadcast="params", split_rngs={"params": False}, length=2, unroll=unroll
        )
        return scan(attention, x, None)[0]


RESULTS = ROOT / "experiments" / "results"
SOURCES = ("kernels", "ccnet_jax/models", "experiments/attention_memory.py")  # what the rows depend on
CHANNELS = 512
MODULES: dict[str, nn.Module] = {
    "RCCA, fused": RCCA(2, implementation="triton"),
    "RCCA, fused, remat": RCCA(2, implementation="triton", remat=True),
    "RCCA, einsum": RCCA(2, implementation="xla"),
    "RCCA, einsum, remat": RCCA(2, implementation="xla", remat=True),
    "Non-local": NonLocal(),
}
OTHER_FORMS: dict[str, nn.Module] = {
    "RCCA, fused, by hand": OtherRCCA("by hand"),
    "RCCA, fused, scan without barrier": OtherRCCA("no barrier"),
    "RCCA, fused, scan not unrolled": OtherRCCA("not unrolled"),
}
SIZES = [(97, 97, "float32"), (97, 97, "bfloat16"), (128, 256, "bfloat16"), (256, 512, "bfloat16")]
SIDES = [33, 65, 97, 129, 193, 257, 385, 513]


def planned_megabytes(module: nn.Module, height: int, width: int, dtype: str) -> tuple[float, float]:
    """Temporaries of the forward pass, and of forward + backward, in 10^6 bytes."""
    forward, both, arguments = passes(module, height, width, dtype)
    return megabytes(forward, arguments), megabytes(both, arguments)


def megabytes(function: Callable[..., Any], arguments: tuple[Any, ...]) -> float:
    """Temporaries of a program compiled for an H200, in 10^6 bytes."""
    return aot.compile_for("h200", function, *arguments).temporary_bytes / 1e6


def passes(
    module: nn.Module, height: int, width: int, dtype: str
) -> tuple[Callable[..., Any], Callable[..., Any], tuple[Any, ...]]:
    """The forward pass, forward + backward, and the shapes of what both take."""
    x = jax.ShapeDtypeStruct((1, height, width, CHANNELS), jnp.dtype(dtype))
    small = jax.ShapeDtypeStruct((1, 1, 1, CHANNELS), x.dtype)  # parameters do not depend on the size
    # What runs only on a GPU cannot be initialized here; RCCA's parameters are those of its reference.
    twin = module if isinstance(module, NonLocal) else RCCA(1, implementation="xla")
    variables = jax.eval_shape(lambda x: twin.init(jax.random.key(0), x), small)

    def forward(variables: Any, x: jax.Array) -> jax.Array:
        return cast(jax.Array, module.apply(variables, x))

    def loss(variables: Any, x: jax.Array) -> jax.Array:
        return (forward(variables, x).astype(jnp.float32) ** 2).sum()

    return forward, jax.grad(loss, (0, 1)), (variables, x)


def tables(report: dict[str, Any]) -> dict[str, str]:
    """{"sizes"}: Markdown, a line for each module, forward / forward + backward for each size."""
    return {"sizes": size_table(report["sizes"])}


def size_table(rows: list[dict]) -> str:
    """A line for each module, forward / forward + backward for each size."""
    sizes = list(dict.fromkeys((row["height"], row["width"], row["dtype"]) for row in rows))
    lines = []
    for name in dict.fromkeys(row["module"] for row in rows):
        cells = {(r["height"], r["width"], r["dtype"]): r for r in rows if r["module"] == name}
        found = [f"{cells[s]['forward']:.0f} / {cells[s]['both']:.0f}" if s in cells else "" for s in sizes]
        lines.append([name, *found])
    header = ["MB, forward / forward + backward", *(f"{h}x{w} {dtype}" for h, w, dtype in sizes)]
    return markdown.table(header, lines)


def measure(report: dict[str, Any], key: str, cases: list[tuple[str, int, int, str]]) -> None:
    """Add the rows that are missing to `report[key]`, one for each (module, height, width, dtype)."""
    found = {(row["module"], row["height"], row["width"], row["dtype"]): row for row in report[key]}
    for case in progress_bar([case for case in cases if case not in found], unit="case"):
        name, height, width, dtype = case
        forward, both = planned_megabytes((MODULES | OTHER_FORMS)[name], height, width, dtype)
        size = {"module": name, "height": height, "width": width, "dtype": dtype}
        found[case] = size | {"forward": forward, "both": both}
        report[key] = [found[case] for case in cases if case in found]
        write_result(RESULTS / "attention_memory.json", report)


def plot(rows: list[dict], path: pathlib.Path) -> None:
    """Forward + backward against the side, both axes logarithmic."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5))
    for name in dict.fromkeys(row["module"] for row in rows):
        mine = [row for row in rows if row["module"] == name]
        axes.plot([row["height"] for row in mine], [row["both"] for row in mine], "o-", label=name)
    axes.set(xscale="log", yscale="log", xlabel="side of the feature map, pixels")
    axes.set(
        ylabel="planned temporaries, MB", title="Forward + backward, bfloat16, C = 512, 2 loops, batch 1"
    )
    axes.set_xticks(SIDES, [str(side) for side in SIDES])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120, bbox_inches="tight")


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plot", action="store_true", help="also how memory grows with the side")
    arguments = parser.parse_args()
    if missing := aot.unavailable():
        parser.error(missing)
    report = result_head(aot.device_name("h200")) | {"sources": sources(*SOURCES), "sizes": [], "growth": []}
    report = resume_report(RESULTS / "attention_memory.json", report, ("sizes", "growth"))
    measure(report, "sizes", [(name, *size) for size in SIZES for name in MODULES | OTHER_FORMS])
    print(size_table(report["sizes"]))
    if arguments.plot:
        measure(report, "growth", [(name, side, side, "bfloat16") for side in SIDES for name in MODULES])
        print(size_table(report["growth"]))
        plot(report["growth"], RESULTS / "attention_memory.png")


if __name__ == "__main__":
    main()
