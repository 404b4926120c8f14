"""What a config costs, as a dictionary, as text and as a chart."""

import contextlib
import pathlib
from collections.abc import Callable
from typing import Any

from ccnet_jax.common.kernels import GPUS
from ccnet_jax.config.config import Config
from ccnet_jax.tasks import TASKS
from ccnet_jax.tools.costs import memory
from ccnet_jax.tools.costs.parts import (
    PARTS,
    inference_operations,
    parameters,
    training_operations,
    variable_shapes,
)
from ccnet_jax.tools.costs.roofline import bound
from ccnet_jax.tools.costs.sizes import class_count, training_size

CHARTS = (".png", ".pdf", ".svg")  # suffixes of the files that `plot` writes
# {name: text, number or dictionary}, as JSON has it
Costs = dict[str, Any]


def costs(
    config: Config,
    batch_size: int,
    image: tuple[int, int],
    gpu: str,
    compiling: Callable[[str], contextlib.AbstractContextManager] = contextlib.nullcontext,
) -> Costs:
    """Everything that `python -m ccnet_jax.cost` reports.

    Args:
      config: of a run.
      batch_size: images of a step on one GPU.
      image: (height, width) of an image to test.
      gpu: a name in `GPUS`.
      compiling: (what will be compiled) -> what surrounds it, to show progress.

    Raises UserError where the config does not tell sizes or classes, or cannot split the batch.
    """
    classes, crop = class_count(config), training_size(config)
    network = TASKS[config.task].network(config, classes)
    variables = variable_shapes(network)
    passes = training_operations(config, classes, batch_size)
    mode = config.test_mode()
    seen = memory.network_input(mode, image)
    tested = inference_operations(config, classes, seen)
    counted = parameters(variables)
    result: Costs = {
        "gpu": gpu,
        "dtype": config.dtype,
        "classes": classes,
        "batch_size": batch_size,
        "crop": list(crop),
        "image": list(image),
        "test_mode": str(mode),
        "network_input": list(seen),
        "parameters": sum(counted.values()),
        "parts": {
            part: {
                "parameters": counted.get(part, 0),
                **{
                    f"training_{name}": by_part[part].products
                    for name, by_part in passes.items()
                    if part in by_part
                },
                **({"testing": tested[part].products} if part in tested else {}),
            }
            for part in PARTS
            if part in counted or any(part in by_part for by_part in passes.values())
        },
        "training": {
            "products": sum(x.products for by_part in passes.values() for x in by_part.values()),
            "elementwise": sum(x.elementwise for by_part in passes.values() for x in by_part.values()),
        },
        "testing": {
            "products": sum(x.products for x in tested.values()),
            "elementwise": sum(x.elementwise for x in tested.values()),
        },
        "missing": memory.missing_reason(),
    }
    if result["missing"] is None:
        _add_plans(result, config, compiling)
    _add_bounds(result, config)
    return result


def _add_plans(
    result: Costs, config: Config, compiling: Callable[[str], contextlib.AbstractContextManager]
) -> None:
    """Device memory of training and testing, and the largest batch that fits."""
    classes, gpu, batch_size = result["classes"], result["gpu"], result["batch_size"]

    def plan(batch_size: int) -> memory.Report:
        with compiling(f"training step, batch {batch_size}"):
            return memory.plan_training(config, classes, batch_size, gpu)

    step = plan(batch_size)
    result["training"] |= {
        "weights_and_optimizer_bytes": step.reused_bytes,
        "temporary_bytes": step.temporary_bytes,
        "peak_bytes": step.peak_bytes,
        "accessed_bytes": step.accessed_bytes,
        "attention_kernels": "criss_cross_forward" in step.hlo,
    }
    image = (result["image"][0], result["image"][1])
    with compiling("testing"):
        task = TASKS[config.task]
        if task.labels_pixels:
            tested = memory.plan_testing(task.network(config, classes), image, config.test_mode(), gpu)
        else:
            tested = memory.plan_forward(config, classes, image, gpu)
    result["testing"] |= {
        "steps": dict(tested.steps),
        "peak_bytes": tested.peak_bytes,
        "accessed_bytes": tested.network.accessed_bytes,
    }
    limit = memory.usable_bytes(gpu)
    parts = config.accumulate  # the images of a part are sought: a batch is that many times as large
    largest, found = memory.largest_batch(
        lambda images: plan(parts * images).peak_bytes, (batch_size // parts, step.peak_bytes), limit
    )
    result["largest_batch"] = {
        "batch_size": parts * largest,
        "usable_bytes": limit,
        "peak_bytes": {str(parts * images): size for images, size in sorted(found.items())},
    }


def _add_bounds(result: Costs, config: Config) -> None:
    """The least time of a step, of the schedule and of a tested image."""
    gpu, training, testing = GPUS[result["gpu"]], result["training"], result["testing"]
    step = bound(gpu, training["products"], training.get("accessed_bytes", 0), config.dtype)
    training["seconds_at_least"], training["bound_by"] = step.seconds, step.by
    training["images_per_second_at_most"] = result["batch_size"] / step.seconds
    training["steps"] = config.steps
    gpus, rest = divmod(config.batch_size, result["batch_size"])
    training["gpus"] = None if rest else gpus
    training["days_at_least"] = None if rest else config.steps * step.seconds / 86400
    mode, image = config.test_mode(), tuple(result["image"])
    testing["network_calls"] = memory.network_calls(mode, image)
    at_once = memory.windows_at_once(mode, image)
    call = bound(gpu, at_once * testing["products"], testing.get("accessed_bytes", 0), config.dtype)
    testing["images_per_second_at_most"] = 1 / (testing["network_calls"] * call.seconds)
    testing["bound_by"] = call.by


def as_text(result: Costs, name: str) -> str:
    """The report in a terminal: a table of parts, and lines of memory and time."""
    gpu, training, testing = GPUS[result["gpu"]], result["training"], result["testing"]
    crop, image = ("{}x{}".format(*result[key]) for key in ("crop", "image"))
    seen = "{}x{}".format(*result["network_input"])
    columns = ("parameters", "training_forward", "training_backward", "testing")
    lines = [
        f"{name}: {result['parameters']:,} parameters, {result['classes']} classes, {result['dtype']}",
        "",
        f"{'':20} {'':>12}   GFLOP of a training step  GFLOP of testing",
        f"{'':20} {'':>12}   {result['batch_size']} x {crop:20}   1 x {seen}",
        f"{'part':20} {'parameters':>12} {'forward':>12} {'backward':>12}",
    ]
    for part, row in result["parts"].items():
        values = [row.get(column, 0) for column in columns]
        if any(values):
            lines.append(_row(part, values))
    lines += [
        _row("sum", [sum(row.get(column, 0) for row in result["parts"].values()) for column in columns]),
        "",
    ]
    lines.append(
        f"A multiply-add is two operations; {training['elementwise'] / 1e9:,.1f} GFLOP of a step are"
    )
    lines[-1] += " elementwise and not in the table."
    if result["missing"] is not None:
        lines += [
            "",
            f"Memory is not planned, and times are bounded by operations alone: {result['missing']}.",
        ]
    else:
        lines += ["", *_memory_lines(result)]
    lines += [
        "",
        f"Bounds on the time, not measurements, for {gpu.title} with "
        f"{gpu.flops[result['dtype']] / 1e12:g} TFLOP/s and {gpu.bandwidth / 1e12:.3g} TB/s ({gpu.source}):",
        f"  a training step takes at least {1000 * training['seconds_at_least']:.3g} ms, by "
        f"{training['bound_by']}: at most {training['images_per_second_at_most']:.3g} images/s",
        f"  {_schedule(training)}",
        f"  testing takes at most {testing['images_per_second_at_most']:.3g} images/s of {image} "
        f"({result['test_mode']}), by {testing['bound_by']}",
    ]
    return "\n".join(lines)


def _schedule(training: Costs) -> str:
    """How long the schedule takes, on as many GPUs as share a batch."""
    gpus, days = training["gpus"], training["days_at_least"]
    if gpus is None:
        return "the config's batch is no multiple of this one: nothing is said of the whole schedule"
    where = "one such GPU" if gpus == 1 else f"{gpus} such GPUs"
    return f"{training['steps']:,} steps take at least {days:.3g} days on {where}"


def _row(part: str, values: list[int]) -> str:
    count, *products = values
    cells = [f"{product / 1e9:12.4g}" for product in products]
    return f"{part:20} {count:12,} {' '.join(cells)}"


def _memory_lines(result: Costs) -> list[str]:
    training, testing, largest = result["training"], result["testing"], result["largest_batch"]
    crop, image = ("{}x{}".format(*result[key]) for key in ("crop", "image"))
    kernels = "fused kernels" if training["attention_kernels"] else "einsums"
    step = max(testing["steps"], key=testing["steps"].get)
    lines = [
        f"Device memory as XLA plans it for {GPUS[result['gpu']].title}, attention by {kernels}:",
        f"  training, {result['batch_size']} x {crop}: {training['peak_bytes'] / 1e9:.2f} GB, of which "
        f"weights and optimizer {training['weights_and_optimizer_bytes'] / 1e9:.2f} GB",
        f"  testing, {image}: {testing['peak_bytes'] / 1e9:.2f} GB, in the step '{step}'",
    ]
    if largest["batch_size"]:
        peak = largest["peak_bytes"][str(largest["batch_size"])] / 1e9
        lines.append(f"  the largest batch of one GPU: {largest['batch_size']} ({peak:.2f} GB of ")
    else:
        lines.append("  not even one image fits a GPU (it has ")
    lines[-1] += f"{largest['usable_bytes'] / 1e9:.2f} GB)"
    lines.append(
        f"  of the GPU's memory {memory.RESERVE:.0%} are left to cuDNN and CUDA; JAX may leave 25%, unless "
        f"XLA_PYTHON_CLIENT_MEM_FRACTION={1 - memory.RESERVE:.2f} is set"
    )
    return lines


def plot(result: Costs, name: str, path: pathlib.Path) -> None:
    """A chart with two panels, in the format that the path's suffix names, one of `CHARTS`.

    The left one has operations by part, the right one device memory, where it was planned, beside that of the
    GPU.
    """
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.5), width_ratios=(3, 2))
    parts = [part for part, row in result["parts"].items() if row.get("training_forward")][::-1]
    start = [0.0] * len(parts)
    for direction in ("forward", "backward"):
        values = [result["parts"][part].get(f"training_{direction}", 0) / 1e9 for part in parts]
        left.barh(parts, values, left=start, label=direction)
        start = [a + b for a, b in zip(start, values, strict=True)]
    crop = "{}x{}".format(*result["crop"])
    left.set(xlabel="GFLOP", title=f"A training step, {result['batch_size']} x {crop}")
    left.legend()
    if result["missing"] is None:
        bars = {
            "weights,\noptimizer": result["training"]["weights_and_optimizer_bytes"],
            "training": result["training"]["peak_bytes"],
            "testing": result["testing"]["peak_bytes"],
        }
        right.bar(list(bars), [size / 1e9 for size in bars.values()], color="C2")
        usable = result["largest_batch"]["usable_bytes"] / 1e9
        right.axhline(usable, color="C3", label=f"usable, {result['gpu']}")
        right.set(ylabel="GB", title="Planned device memory")
        right.legend()
    else:
        right.axis("off")
        right.set(title="Memory is not planned here")
    figure.suptitle(f"{name}, {result['dtype']}")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
