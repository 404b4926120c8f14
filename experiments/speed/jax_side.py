"""This project's contender of `experiments.model_speed`: the programs' own training step and predictor."""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ccnet_jax.common import devices
from ccnet_jax.evaluation.prediction import predictor, scorer
from ccnet_jax.models.ccnet import CCNet
from ccnet_jax.models.config import build_network
from ccnet_jax.training.losses import LossConfig
from ccnet_jax.training.optimizers import OptimizerConfig, build_optimizer
from ccnet_jax.training.semantic_loss import make_loss
from ccnet_jax.training.step import State, make_train_step
from experiments.speed import cases, worker
from experiments.speed.cases import Case
from experiments.speed.weights import load_variables, model_config
from experiments.speed.worker import Contender
from kernels.criss_cross import blocks

STEPS = 40_000  # of the schedule, of which the first few run


def prepare(case: Case, name: str, folder: pathlib.Path, request: dict[str, Any]) -> Contender:
    """The case on JAX's first device. The request may name "blocks", a file that `tune --output` wrote."""
    if request["blocks"] is not None:
        blocks.use_tuned(pathlib.Path(request["blocks"]))
    mesh = devices.data_mesh(jax.devices()[:1])
    network = build_network(model_config(case), cases.CLASSES, case.dtype)
    variables = load_variables(case.weights_file(folder, "jax"))
    variables = jax.device_put(variables, devices.replicated_sharding(mesh))
    batch = devices.put_batch({"image": cases.images(case), "label": cases.labels(case)}, mesh)
    if case.task == "training":
        return training(network, variables, batch, mesh)
    return inference(network, variables, batch["image"])


def training(network: CCNet, variables: Any, batch: Any, mesh: jax.sharding.Mesh) -> Contender:
    """A step of `ccnet_jax.train`, with what it logs."""
    config = OptimizerConfig(
        learning_rate=cases.LEARNING_RATE, momentum=cases.MOMENTUM, weight_decay=cases.WEIGHT_DECAY
    )
    optimizer = build_optimizer(config, STEPS)
    loss = make_loss(network, LossConfig(auxiliary_weight=cases.AUXILIARY_WEIGHT))
    step = make_train_step(loss, optimizer, seed=0)
    state = State(jnp.zeros((), jnp.int32), variables, optimizer.init(variables["params"]))
    return contender(step, jax.device_put(state, devices.replicated_sharding(mesh)), batch)


def contender(step: Any, state: State, batch: Any) -> Contender:
    """Steps, one after the other, of the same batch."""

    def call() -> Any:
        nonlocal state
        state, metrics = step(state, batch)
        return metrics

    def wait(metrics: Any) -> None:
        jax.block_until_ready((state, metrics))

    return Contender(call, wait, peak_bytes, loss=lambda metrics: float(metrics["loss"]))


def inference(network: CCNet, variables: Any, images: jax.Array) -> Contender:
    """What `ccnet_jax.eval` runs: label maps of whole images."""
    predict = predictor(network)

    def call() -> jax.Array:
        return predict(variables, images)

    def logits() -> np.ndarray:
        return np.asarray(scorer(network)(variables, images)[0], np.float32)

    return Contender(call, lambda result: result.block_until_ready(), peak_bytes, logits=logits)


def peak_bytes() -> int:
    """Of the GPU's memory; on a CPU of the process."""
    stats = jax.local_devices()[0].memory_stats()
    return stats["peak_bytes_in_use"] if stats else worker.resident_bytes()


if __name__ == "__main__":
    worker.serve(prepare)
