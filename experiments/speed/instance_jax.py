"""This project's contender of `experiments.instance_speed`: the training step of configs/coco.py."""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ccnet_jax.common import devices
from ccnet_jax.data.instances import MASK_CELLS
from ccnet_jax.models.config import ModelConfig
from ccnet_jax.models.detection.config import DetectionConfig, build_mask_rcnn
from ccnet_jax.models.detection.mask_rcnn import MaskRCNN, is_trained_where_frozen
from ccnet_jax.training.instance_losses import make_instance_loss
from ccnet_jax.training.optimizers import OptimizerConfig, build_optimizer
from ccnet_jax.training.step import State, initial_state, make_train_step
from ccnet_jax.weights.instance_import import INSTANCE_NAMES, instance_variables
from experiments.speed import cases, instance_cases, worker
from experiments.speed.cases import Case
from experiments.speed.jax_side import contender
from experiments.speed.worker import Contender

STEPS = 90_000  # of the schedule, of which the first few run


def prepare(case: Case, name: str, folder: pathlib.Path, request: dict[str, Any]) -> Contender:
    """A training step, with what `ccnet_jax.train` logs; torchvision's weights, where it has left them."""
    mesh = devices.data_mesh(jax.devices()[:1])
    config = DetectionConfig(sampled_regions=instance_cases.regions(case))
    network = build_mask_rcnn(
        ModelConfig(depth=case.depth, context="none", stem="7x7"), config, instance_cases.CLASSES, case.dtype
    )
    rates = OptimizerConfig(
        learning_rate=instance_cases.LEARNING_RATE,
        momentum=instance_cases.MOMENTUM,
        weight_decay=instance_cases.WEIGHT_DECAY,
    )
    optimizer = build_optimizer(rates, STEPS, is_trained_where_frozen)
    state = initial_state(network, optimizer, seed=0)
    weights = case.weights_file(folder, "torch")
    if weights.exists():
        state = State(state.step, variables(network, weights), state.optimizer)
    state = jax.device_put(state, devices.replicated_sharding(mesh))
    step = make_train_step(make_instance_loss(network, config), optimizer, seed=0)
    batch = devices.put_batch(objects(case, config) | {"image": cases.images(case)}, mesh)
    return contender(step, state, batch)


def variables(network: MaskRCNN, weights: pathlib.Path) -> Any:
    """Those of torchvision's state dict."""
    with np.load(weights) as file:
        tensors = {name: file[name] for name in file}
    found, _ = instance_variables(tensors, INSTANCE_NAMES["torchvision"], network, weights)
    return jax.tree.map(jnp.asarray, found)


def objects(case: Case, config: DetectionConfig) -> dict[str, np.ndarray]:
    """The objects of a batch, as the loader makes them."""
    boxes, classes = instance_cases.boxes(case), instance_cases.classes(case)
    free = config.objects - boxes.shape[1]
    used = np.zeros((case.batch, config.objects), bool)
    used[:, : boxes.shape[1]] = True
    masks = np.full((*used.shape, MASK_CELLS, MASK_CELLS), 255, np.uint8)  # a rectangle fills its box
    return {
        "size": np.tile(np.array([case.height, case.width], np.int32), (case.batch, 1)),
        "boxes": np.pad(boxes, ((0, 0), (0, free), (0, 0))),
        "classes": np.pad(classes, ((0, 0), (0, free))),
        "used": used,
        "masks": masks,
    }


if __name__ == "__main__":
    worker.serve(prepare)
