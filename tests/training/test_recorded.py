"""Losses, optimizers, clipping and schedules compute what PyTorch's and mmsegmentation's do, as recorded."""

import dataclasses

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

pytestmark = pytest.mark.slow

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

# Of `tests/record_mmsegmentation.py`: the loss, and the sum of its gradient times normal numbers of
# RandomState(1). Of "ohem", threshold and pixels kept of each image.
MMSEGMENTATION = {
    "plain": (2.70774015, -0.02027113),
    "weighted": (2.56367197, -0.01901459),
    "ohem 0.3 10": (2.58381510, -0.02164127),
    "weighted ohem 0.3 10": (2.41845961, -0.03712684),
    "ohem 0.3 20": (2.58381510, -0.02164127),
    "weighted ohem 0.3 20": (2.41845961, -0.03712684),
    "ohem 0.9 5": (2.70282260, -0.02219057),
    "weighted ohem 0.9 5": (2.55567660, -0.02240948),
}


@pytest.fixture(scope="module")
def recorded():
    return cases.load_recorded()


def value_and_gradient(config, logits, labels):
    loss = LOSSES[config.name](config)
    return jax.value_and_grad(lambda logits: loss(UpsampledLogits(logits), labels).value)(logits)


@pytest.mark.parametrize("kind", LOSS_CONFIGS)
def test_losses(recorded, kind):
    config = LOSS_CONFIGS[kind]
    logits, labels = map(jnp.asarray, cases.loss_inputs())
    loss, gradient = value_and_gradient(config, logits, labels)
    np.testing.assert_allclose(loss, recorded[f"loss/{kind}"], rtol=1e-5)
    np.testing.assert_allclose(gradient, recorded[f"loss/{kind}/gradient"], rtol=0, atol=1e-7)


@pytest.mark.parametrize("kind", MMSEGMENTATION)
def test_losses_over_all_pixels_are_mmsegmentations(kind):
    words = kind.removeprefix("weighted").split()
    config = LossConfig(average_over="all", class_weights=WEIGHTS if kind.startswith("weighted") else None)
    if words[:1] == ["ohem"]:
        ohem = {"ohem_threshold": float(words[1]), "ohem_min_kept": int(words[2])}
        config = dataclasses.replace(config, name="ohem", **ohem)
    logits, labels = map(jnp.asarray, cases.loss_inputs())
    loss, gradient = value_and_gradient(config, logits, labels)
    projection = np.random.RandomState(1).standard_normal(logits.shape)
    found = loss, (np.asarray(gradient, np.float64) * projection).sum()
    np.testing.assert_allclose(found, MMSEGMENTATION[kind], rtol=1e-5, atol=1e-7)


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


# Of `tests/record_mmsegmentation.py`: (steps, base, lowest, power) and the learning rate of every step.
MMENGINE_POLY = {
    (1, 0.01, 1e-4, 0.9): [0.01],
    (2, 0.01, 1e-4, 0.9): [0.01, 0.0001],
    (7, 0.1, 0.0, 0.9): [0.1, 0.0848666147, 0.0694253163, 0.0535886731, 0.0372041058, 0.0199371866, 0.0],
}


@pytest.mark.parametrize("settings", MMENGINE_POLY)
def test_poly_that_ends_with_the_last_step_is_mmengines(settings):
    steps, base, lowest, power = settings
    config = ScheduleConfig(learning_rate=base, min_learning_rate=lowest, power=power, poly_end="last_step")
    rate = build_schedule(config, steps)
    found = [float(rate(step)) for step in range(steps)]
    np.testing.assert_allclose(found, MMENGINE_POLY[settings], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("largest", cases.CLIP_NORMS)
def test_clipping(recorded, largest):
    gradient = cases.optimizer_inputs()[1][0]
    np.testing.assert_allclose(optax.tree.norm(gradient), recorded[f"clip/{largest:g}/norm"], rtol=1e-6)
    clipped, _ = optax.clip_by_global_norm(largest).update(gradient, optax.EmptyState())
    found = np.concatenate([np.ravel(clipped[part]) for part in ("kernel", "bias")])
    np.testing.assert_allclose(found, recorded[f"clip/{largest:g}/clipped"], rtol=1e-5, atol=1e-8)
