"""Operations and parameters of a config by part of the network: stem, stages, context module, heads, ..."""

import contextlib
import functools
import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ccnet_jax.common.errors import UserError
from ccnet_jax.config.config import Config
from ccnet_jax.models.statistics import part_of_a_batch
from ccnet_jax.models.variables import Variables
from ccnet_jax.tasks import TASKS
from ccnet_jax.tasks.norms import single_values_refused
from ccnet_jax.tools.costs.flops import COUNTED, Operations, counted_attention, operations
from ccnet_jax.tools.costs.sizes import training_size
from ccnet_jax.training.optimizers import build_optimizer
from ccnet_jax.training.step import State, initial_state, make_train_step

LOSS, OPTIMIZER = "loss and upsampling", "optimizer"
# In the order of a table.
PARTS = (
    *("stem", "stage 1", "stage 2", "stage 3", "stage 4", "backbone", "context", "head", "auxiliary head"),
    *("pyramid", "proposals", "boxes", "masks"),
    *(LOSS, OPTIMIZER),
)
# {name of a module of Mask R-CNN, or of its method: part}
_OF_DETECTION = {
    **{"context_module": "context", "fpn": "pyramid", "rpn_head": "proposals"},
    **{"box_head": "boxes", "mask_head": "masks", "boxes": "boxes", "masks": "masks"},
}


def part_of(path: Iterable[str]) -> str:
    """The part of the network to which a path of scopes, or of names of parameters, belongs."""
    names = list(path)
    for name in names:
        if name in _OF_DETECTION:
            return _OF_DETECTION[name]
    if "backbone" in names:
        for name in reversed(names):
            if name.startswith("stem_"):
                return "stem"
            if stage := re.match(r"layer([1-4])_", name):
                return f"stage {stage[1]}"
        return "backbone"
    if "auxiliary_head" in names:
        return "auxiliary head"
    if "head" in names:
        return "context" if "context" in names else "head"
    inside = "CCNet" in names or "jvp" in names  # the optimizer's work is outside of what is differentiated
    return LOSS if inside else OPTIMIZER


def training_operations(config: Config, classes: int, batch_size: int) -> dict[str, dict[str, Operations]]:
    """{"forward": {part: its operations}, "backward": ...} of one training step.

    The backward pass has what is computed again under `model.remat`.
    """
    with counted_attention():
        network = TASKS[config.task].network(config, classes).clone(implementation=COUNTED)
        step, state, batch = training_step(config, network, batch_size)
        with batch_on_one_gpu(config, batch_size):
            found = operations(inspect.unwrap(step), state, batch)  # a traced program has no compiler options
    passes: dict[str, dict[str, Operations]] = {"forward": {}, "backward": {}}
    for path, count in found.items():
        again = "transpose" in path or "rematted_computation" in path
        direction, part = passes["backward" if again else "forward"], part_of(path)
        direction[part] = direction.get(part, Operations()) + count
    return passes


def inference_operations(config: Config, classes: int, size: tuple[int, int]) -> dict[str, Operations]:
    """{part: its operations} of the network in testing, for an image or window of (height, width)."""
    images = jax.ShapeDtypeStruct((1, *size, 3), jnp.uint8)
    with counted_attention():
        task = TASKS[config.task]
        network = task.network(config, classes).clone(implementation=COUNTED)
        found = operations(task.forward(config, network), variable_shapes(network), images)
    parts: dict[str, Operations] = {}
    for path, count in found.items():
        parts[part_of(path)] = parts.get(part_of(path), Operations()) + count
    return parts


def parameters(variables: Variables) -> dict[str, int]:
    """{part: the number of its parameters}."""
    parts: dict[str, int] = {}
    for path, x in jax.tree_util.tree_leaves_with_path(variables["params"]):
        part = part_of(key.key for key in path)
        parts[part] = parts.get(part, 0) + x.size
    return parts


def training_step(
    config: Config, network: Any, batch_size: int
) -> tuple[Any, State, Mapping[str, jax.ShapeDtypeStruct]]:
    """The function of a training step, compiled when called, and the shapes of its state and of a batch.

    Raises UserError where the config does not tell the size of its images, or its `accumulate` does not
    divide the batch.
    """
    if batch_size % config.accumulate:
        raise UserError(
            f"a batch of {batch_size} on one GPU cannot be split into config.accumulate={config.accumulate} "
            "equal parts; choose a multiple of it by --batch"
        )
    task = TASKS[config.task]
    optimizer = build_optimizer(config.optimizer, config.steps, task.is_trained(config))
    any_device = network.clone(implementation="xla")  # which parameters there are, each backend agrees on
    state = jax.eval_shape(functools.partial(initial_state, any_device, optimizer, config.seed))
    batch = task.shapes(config, training_size(config), batch_size)
    step = make_train_step(task.loss(config, network), optimizer, config.seed, config.accumulate)
    return step, state, batch


@contextlib.contextmanager
def batch_on_one_gpu(config: Config, batch_size: int) -> Iterator[None]:
    """For tracing `training_step`. Norms see all of config.batch_size, which may be on several GPUs.

    Raises UserError where a norm would see a single value, so that training would refuse the config.
    """
    with part_of_a_batch() if batch_size < config.batch_size else single_values_refused(config):
        yield


def variable_shapes(network: Any) -> Variables:
    """Shapes of the network's parameters and batch statistics."""
    any_device = network.clone(implementation="xla")
    small = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.uint8)
    return jax.eval_shape(any_device.init, jax.random.key(0), small)
