"""Device memory of training and of testing as XLA plans it for a GPU, and the largest batch that fits."""

import dataclasses
import math
import sys
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from ccnet_jax.common.kernels import GPUS, Report, aot
from ccnet_jax.config.config import Config
from ccnet_jax.evaluation.prediction import add_upsampled, largest_upsampled, row_blocks
from ccnet_jax.evaluation.sliding_window import WINDOWS_AT_ONCE, add_windows, window_starts
from ccnet_jax.evaluation.test_mode import TestMode
from ccnet_jax.models.ccnet import CCNet
from ccnet_jax.models.resize import Upsampling, upsampling_matrices
from ccnet_jax.tasks import TASKS
from ccnet_jax.tools.costs.parts import batch_on_one_gpu, training_step, variable_shapes

# Of a GPU's memory: the CUDA context, cuDNN's scratch memory and what the allocator cannot use.
RESERVE = 0.06
_CLOSE = 0.95  # of the memory: the search ends with a batch that takes so much
_TRIES = 4  # compilations in the search for the largest batch, beside the first two


@dataclasses.dataclass(frozen=True)
class Plan:
    """What testing an image takes, beside what its largest step compiles to.

    Attributes:
      steps: {name of a step: bytes that lie in memory while it runs}.
      network: the step that runs the network, `network_calls` times.
    """

    steps: Mapping[str, int]
    network: Report

    @property
    def peak_bytes(self) -> int:
        """Of the largest step."""
        return max(self.steps.values())


def missing_reason() -> str | None:
    """Why nothing can be compiled for a GPU here, with the remedy; None where it can."""
    reason = aot.unavailable()
    if reason is None:
        return None
    if sys.platform != "linux":
        return f"JAX compiles for NVIDIA's GPUs on Linux only, and this is {sys.platform}"
    return f"{reason}; in a clone, pip install '.[cost]' brings all that is needed"


def plan_training(config: Config, classes: int, batch_size: int, gpu: str) -> Report:
    """What a training step of `batch_size` images costs on one GPU; gpu: a name in `GPUS`."""
    network = TASKS[config.task].network(config, classes)
    step, state, batch = training_step(config, network, batch_size)
    with batch_on_one_gpu(config, batch_size):
        return aot.compile_for(gpu, step, state, batch)


def plan_forward(config: Config, classes: int, image: tuple[int, int], gpu: str) -> Plan:
    """What testing one image of (height, width) costs on one GPU where one program does all of it."""
    task = TASKS[config.task]
    network = task.network(config, classes)
    variables = variable_shapes(network)
    images = jax.ShapeDtypeStruct((1, *image, 3), jnp.uint8)
    report = aot.compile_for(gpu, task.forward(config, network), variables, images)
    return Plan({"network": report.peak_bytes}, report)


def plan_testing(network: CCNet, image: tuple[int, int], mode: TestMode, gpu: str) -> Plan:
    """What testing one image of (height, width) costs on one GPU, step by step as `predictor` runs them.

    Each step is a program of its own: weights, image, sums and logits lie in memory beside its temporaries.
    Of several scales the largest counts.
    """
    variables = variable_shapes(network)

    def planned(function: Callable, *arguments: object) -> int:
        return aot.compile_for(gpu, function, *arguments).temporary_bytes

    size = mode.input_size(image, max(mode.scales))
    window = network_input(mode, image)
    at_once = windows_at_once(mode, image)
    x = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
    windows = jax.ShapeDtypeStruct((at_once, *window, 3), jnp.float32)
    any_device = network.clone(implementation="xla")
    logits = jax.eval_shape(lambda v, x: any_device.apply(v, x, upsample=False)[0], variables, windows)
    full = jax.ShapeDtypeStruct((1, *size, network.num_classes), jnp.float32)
    several = len(mode.passes()) > 1
    held = _bytes((variables, x))
    held += image[0] * image[1] * network.num_classes * 4 if several else 0
    held += _bytes(full) if mode.window is not None else 0
    report = aot.compile_for(gpu, lambda v, x: network.apply(v, x, upsample=False)[0], variables, windows)
    steps = {"network": held + _bytes((windows, logits)) + report.temporary_bytes}
    if mode.window is not None:
        corners = jax.ShapeDtypeStruct((at_once, 2), jnp.int32)
        weights = jax.ShapeDtypeStruct((at_once,), jnp.float32)

        def add(total: jax.Array, logits: jax.Array, corners: jax.Array, weights: jax.Array) -> jax.Array:
            return add_windows(total, logits, corners, weights, window, network.aligns_corners)

        steps["add windows"] = held + _bytes(logits) + planned(add, full, logits, corners, weights)
        logits = full
    held += _bytes(logits) if mode.window is None else 0
    blocks = row_blocks((1, *image, 3), network.num_classes)
    logits_size = (logits.shape[1], logits.shape[2])
    upsampling = None
    if logits_size != image:
        upsampling = upsampling_matrices((logits_size, size, image), network.aligns_corners, blocks)
    if not several:
        steps["largest"] = held + planned(largest_upsampled, logits, upsampling)
        return Plan(steps, report)
    total = jax.ShapeDtypeStruct((1, *blocks, image[1], network.num_classes), jnp.float32)

    def add_scores(total: jax.Array, logits: jax.Array, upsampling: Upsampling | None) -> jax.Array:
        return add_upsampled(total, logits, upsampling, mode.sums_probabilities)

    steps["add"] = held + planned(add_scores, total, logits, upsampling)
    return Plan(steps, report)


def usable_bytes(gpu: str) -> int:
    """Of a GPU's memory, without `RESERVE`."""
    return int(GPUS[gpu].memory_bytes * (1 - RESERVE))


def largest_batch(
    planned: Callable[[int], int], first: tuple[int, int], limit: int
) -> tuple[int, dict[int, int]]:
    """The largest batch whose planned memory is at most `limit`, found with few compilations.

    Planned memory is nearly a straight line over the batch. A line through two batches tells where to look;
    it is drawn again until the batch that it tells is planned, fits and leaves little.

    Args:
      planned: batch -> bytes; compiles.
      first: (batch, bytes) that is known already.
      limit: bytes.

    Returns:
      The batch, 0 where one image does not fit; and all that was planned, {batch: bytes}.
    """
    found = dict([first])
    second = 2 * first[0] if first[1] <= limit else first[0] // 2
    if second:
        found[second] = planned(second)
    for _ in range(_TRIES if second else 0):
        fitting = max((batch for batch, size in found.items() if size <= limit), default=0)
        too_large = min((batch for batch, size in found.items() if size > limit), default=None)
        a, b = sorted(found, key=lambda batch: abs(found[batch] - limit))[:2]
        slope = max((found[a] - found[b]) / (a - b), 1)
        guess = int(a + (limit - found[a]) / slope)
        guess = guess if too_large is None else min(guess, too_large - 1)
        if not fitting and 1 not in found:
            guess = max(guess, 1)  # where the line is not straight, it may give less than one image
        if guess <= fitting:
            break
        found[guess] = planned(guess)
        if _CLOSE * limit <= found[guess] <= limit:
            break
    return max((batch for batch, size in found.items() if size <= limit), default=0), found


def network_input(mode: TestMode, image: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of what the network sees of an image at the largest scale: all of it, or a window."""
    height, width = mode.input_size(image, max(mode.scales))
    if mode.window is None:
        return height, width
    return min(mode.window[0], height), min(mode.window[1], width)


def network_calls(mode: TestMode, image: tuple[int, int]) -> int:
    """How often the network runs for an image at the largest scale."""
    return -(-_window_count(mode, image) // windows_at_once(mode, image))


def windows_at_once(mode: TestMode, image: tuple[int, int]) -> int:
    """Images or sliding windows of one image that the network sees in one call."""
    return min(WINDOWS_AT_ONCE, _window_count(mode, image))


def _window_count(mode: TestMode, image: tuple[int, int]) -> int:
    """How many sliding windows cover an image at the largest scale; 1 where it is tested whole."""
    if mode.window is None or mode.stride is None:
        return 1
    size = mode.input_size(image, max(mode.scales))
    sides = zip(size, mode.window, mode.stride, strict=True)
    return math.prod(len(window_starts(side, min(window, side), stride)) for side, window, stride in sides)


def _bytes(tree: object) -> int:
    """Of a tree of arrays or shapes."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))
