"""Losses, optimizers, clipping and schedules compute what PyTorch's do, against recordings."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ccnet_jax.training.losses import LOSSES, LossConfig
from ccnet_jax.training.optimizers import OPTIMIZERS, OptimizerConfig, build_optimizer
from ccnet_jax.training.schedules import ScheduleConfig, build_schedule
from ccnet_jax.training.upsampled import UpsampledLogits
from tests.weights import parity_cases as cases

WEIGHTS, SMOOTHING = tuple(map(float, cases.LOSS_CLASS_WEIGHTS)), cases.LOSS_LABEL_SMOOTHING
LOSS_CONFIGS = {
    "plain": LossConfig(),
    "weighted": LossConfig(class_weights=WEIGHTS),
    "smoothed": LossConfig(label_smoothing=SMOOTHING),
    "weighted_smoothed": LossConfig(class_weights=WEIGHTS, label_smoothing=SMOOTHING),
    "ohem": LossConfig(
        name="ohem",
        ohem_threshold=cases.LOSS_OHEM_THRESHOLD,
        ohem_min_kept=cases.LOSS_OHEM_MIN_KEPT,
    ),
}


@pytest.fixture(scope="module")
def recorded():
    return cases.load_recorded()


@pytest.mark.parametrize("kind", LOSS_CONFIGS)
def test_losses(recorded, kind):
    config = LOSS_CONFIGS[kind]
    logits, labels = map(jnp.asarray, cases.loss_inputs())
    loss, gradient = jax.value_and_grad(LOSSES[config.name](config))(UpsampledLogits(logits), labels)
    np.testing.assert_allclose(loss, recorded[f"loss/{kind}"], rtol=1e-5)
    np.testing.assert_allclose(gradient.logits, recorded[f"loss/{kind}/gradient"], rtol=0, atol=1e-7)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
@pytest.mark.parametrize("variant", ["", "_poly", "_clipped", "_bias_not_decayed"])
def test_optimizers(recorded, name, variant):
    config = OptimizerConfig(
        name=name,
        learning_rate=cases.LEARNING_RATE,
        power=cases.POLY_POWER,
        momentum=cases.MOMENTUM,
        weight_decay=cases.WEIGHT_DECAY,
        decay_norms_and_biases=variant != "_bias_not_decayed",
        clip_norm=cases.CLIP_NORM if variant == "_clipped" else None,
    )
    if variant == "_poly":
        optimizer = build_optimizer(config, cases.SCHEDULE_STEPS)
    else:
        optimizer = OPTIMIZERS[name](config, optax.constant_schedule(cases.LEARNING_RATE))
        if config.clip_norm is not None:
            optimizer = optax.chain(optax.clip_by_global_norm(config.clip_norm), optimizer)
    parameters, gradients = cases.optimizer_inputs()
    state = optimizer.init(parameters)
    for wanted, gradient in zip(recorded[f"optimizer/{name}{variant}"], gradients, strict=True):
        updates, state = optimizer.update(gradient, state, parameters)
        parameters = optax.apply_updates(parameters, updates)
        found = np.concatenate([np.ravel(parameters[part]) for part in ("kernel", "bias")])
        np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-6)


@pytest.mark.parametrize("schedule", ["poly", "cosine"])
def test_schedules(recorded, schedule):
    lowest = 0.0 if schedule == "poly" else cases.COSINE_MINIMUM
    config = ScheduleConfig(
        schedule=schedule,
        learning_rate=cases.LEARNING_RATE,
        min_learning_rate=lowest,
        power=cases.POLY_POWER,
    )
    rate = build_schedule(config, cases.SCHEDULE_STEPS)
    found = [float(rate(step)) for step in range(cases.SCHEDULE_STEPS + 1)]
    np.testing.assert_allclose(found, recorded[f"schedule/{schedule}"], rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("largest", cases.CLIP_NORMS)
def test_clipping(recorded, largest):
    gradient = cases.optimizer_inputs()[1][0]
    np.testing.assert_allclose(optax.tree.norm(gradient), recorded[f"clip/{largest:g}/norm"], rtol=1e-6)
    clipped, _ = optax.clip_by_global_norm(largest).update(gradient, optax.EmptyState())
    found = np.concatenate([np.ravel(clipped[part]) for part in ("kernel", "bias")])
    np.testing.assert_allclose(found, recorded[f"clip/{largest:g}/clipped"], rtol=1e-5, atol=1e-8)
