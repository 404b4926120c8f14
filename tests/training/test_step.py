import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccnet_jax.common import devices
from ccnet_jax.models.ccnet import CCNet
from ccnet_jax.training import step as training_step
from ccnet_jax.training.losses import LossConfig, cross_entropy, ohem_cross_entropy
from ccnet_jax.training.means import Mean
from ccnet_jax.training.optimizers import OptimizerConfig, build_optimizer
from ccnet_jax.training.semantic_loss import make_loss
from ccnet_jax.training.step import Loss, State, initial_state, is_finite, make_train_step, split_batch
from ccnet_jax.training.upsampled import UpsampledLogits
from tests.helpers import random_state

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("tiny_backbone")]


def network():
    return CCNet(3, 2, "mmseg", "none", width=0.125, backbone="tiny")


def batch():
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, (2, 32, 40)).astype(np.uint8)
    label[:, :3] = 255
    return {
        "image": jnp.asarray(rng.integers(0, 256, (2, 32, 40, 3)).astype(np.uint8)),
        "label": jnp.asarray(label),
    }


class FixedLogits(CCNet):
    """A network whose parameters are the logits of its heads."""

    def apply(self, variables, images, **options):
        return variables["params"], {"batch_stats": {}}


@pytest.mark.parametrize("average_over", ["labelled", "all"])
@pytest.mark.parametrize("weights", [None, (1.0, 2.0, 0.5)])
def test_both_heads_have_the_same_weights_smoothing_and_average(average_over, weights):
    smoothing = 0.2
    logits, auxiliary = jax.random.normal(jax.random.key(0), (2, 2, 32, 40, 3)) * 3
    config = LossConfig(
        name="ohem",
        auxiliary_weight=0.3,
        class_weights=weights,
        label_smoothing=smoothing,
        ohem_threshold=0.2,
        ohem_min_kept=5,
        average_over=average_over,
    )
    loss, (metrics, _) = make_loss(FixedLogits(3), config)(
        (logits, auxiliary), {}, batch(), jax.random.key(0)
    )
    labels = batch()["label"]
    main = ohem_cross_entropy(UpsampledLogits(logits), labels, 0.2, 5, weights, smoothing, average_over).value
    assert metrics["main_loss"] == main
    wanted = cross_entropy(UpsampledLogits(auxiliary), labels, weights, smoothing, average_over).value
    assert metrics["auxiliary_loss"] == wanted
    np.testing.assert_allclose(loss, main + 0.3 * metrics["auxiliary_loss"], rtol=1e-6)


def test_class_weights_of_another_number_of_classes_get_a_message():
    with pytest.raises(ValueError, match=r"class_weights has 2 numbers, but the data set has 3 classes"):
        make_loss(network(), LossConfig(class_weights=(1.0, 2.0)))


def test_steps_lower_the_loss_and_warming_up_begins_at_rest():
    config = OptimizerConfig(
        name="adamw", schedule="cosine", warmup_steps=1, clip_norm=1.0, learning_rate=1e-3
    )
    optimizer = build_optimizer(config, 8)
    state = random_state(network(), optimizer)
    before = jax.tree.map(np.asarray, state.variables["params"])
    step = make_train_step(make_loss(network(), LossConfig(class_weights=(1.0, 2.0, 0.5))), optimizer, 0)
    state, first = step(state, batch())
    jax.tree.map(np.testing.assert_array_equal, state.variables["params"], before)  # the first rate is 0
    for _ in range(6):
        state, last = step(state, batch())
    assert int(state.step) == 7
    assert float(last["main_loss"]) < float(first["main_loss"])


def test_each_part_of_a_batch_updates_the_statistics_and_draws_for_itself():
    """The parts have as many labelled pixels: the gradient is the mean of theirs."""
    optimizer = build_optimizer(OptimizerConfig(momentum=0.0, weight_decay=0.0, power=0.0), 4)
    state = random_state(network(), optimizer)
    params, batch_stats = jax.tree.map(jnp.copy, (state.variables["params"], state.variables["batch_stats"]))
    whole = jax.tree.map(lambda x: jnp.concatenate([x, x[:, ::-1]]), batch())
    gradient = jax.jit(jax.value_and_grad(make_loss(network(), LossConfig()), has_aux=True))
    losses, total = [], jax.tree.map(jnp.zeros_like, params)
    for part, key in enumerate(jax.random.split(jax.random.fold_in(jax.random.key(7), 0), 2)):
        rows = jax.tree.map(lambda x, part=part: x[part::2], whole)
        (loss, (_, batch_stats)), found = gradient(params, batch_stats, rows, key)
        losses.append(float(loss))
        total = jax.tree.map(jnp.add, total, found)
    state, metrics = make_train_step(make_loss(network(), LossConfig()), optimizer, 7, accumulate=2)(
        state, whole
    )
    np.testing.assert_allclose(metrics["loss"], np.mean(losses), rtol=1e-5)
    wanted = jax.tree.map(lambda p, g: p - OptimizerConfig().learning_rate * g / 2, params, total)
    for found, expected in (
        (state.variables["params"], wanted),
        (state.variables["batch_stats"], batch_stats),
    ):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), found, expected)


def after_a_step(count, accumulate):
    """Metrics and variables after a step of eight times the same image, on `count` devices."""
    mesh = devices.data_mesh(jax.devices()[:count])
    optimizer = build_optimizer(OptimizerConfig(), 4)
    state = jax.device_put(random_state(network(), optimizer), devices.replicated_sharding(mesh))
    whole = devices.put_batch(jax.tree.map(lambda x: np.repeat(x[:1], 8, axis=0), batch()), mesh)
    step = make_train_step(make_loss(network(), LossConfig()), optimizer, 7, accumulate)
    state, metrics = step(state, whole)
    return jax.tree.map(np.asarray, (metrics, state.variables))


def test_eight_parts_on_one_device_are_one_part_on_each_of_eight(monkeypatch):
    # Parts in a loop, as on a GPU; the test above has them one after the other, as on a CPU.
    monkeypatch.setattr(training_step, "device", types.SimpleNamespace(kind=lambda: ("gpu", "")))
    # Batch norm and dropout see a part: here all images are one, and nothing is dropped.
    monkeypatch.setattr(nn.Dropout, "__call__", lambda _, x: x)
    parts, whole = (after_a_step(count, 8 // count) for count in (1, 8))
    for _, variables in (parts, whole):
        del variables["batch_stats"]  # updated by each part
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), parts, whole)


def test_a_batch_is_split_into_parts_without_moving_rows_between_devices():
    rows = jnp.arange(16)
    np.testing.assert_array_equal(split_batch(rows, 2), [rows[::2], rows[1::2]])
    over_eight = jax.device_put(rows, devices.batch_sharding(devices.data_mesh()))
    program = jax.jit(lambda x: split_batch(x, 2)).lower(over_eight).compile().as_text()
    assert not any(word in program for word in ("all-gather", "all-to-all", "collective-permute"))
    with pytest.raises(ValueError, match="a batch of 16 cannot be split into 3 equal parts"):
        split_batch(rows, 3)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_new_state_takes_the_memory_of_the_old_one(accumulate):
    optimizer = build_optimizer(OptimizerConfig(), 4)
    state = jax.eval_shape(lambda: initial_state(network(), optimizer, 0))
    step = make_train_step(make_loss(network(), LossConfig()), optimizer, 0, accumulate)
    memory = step.lower(state, batch()).compile().memory_analysis()
    size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
    assert memory.alias_size_in_bytes >= size
    assert memory.output_size_in_bytes - memory.alias_size_in_bytes < size / 100  # metrics, no second state


def test_a_step_that_is_not_finite_changes_nothing_but_the_step():
    def means(params, batch_stats, batch, key):
        return {"x": Mean((params["w"] * batch["x"]).sum(), jnp.int32(1))}, {"mean": batch["x"].mean()}

    optimizer = build_optimizer(OptimizerConfig(learning_rate=0.1), 10)
    step = make_train_step(Loss(means, {"x": 1.0}), optimizer, seed=0)
    params = {"w": jnp.ones(3)}
    state = State(
        jnp.int32(0), {"params": params, "batch_stats": {"mean": jnp.float32(7)}}, optimizer.init(params)
    )
    good, bad = {"x": jnp.arange(3.0)}, {"x": jnp.array([1.0, jnp.nan, 1.0])}
    state, metrics = step(state, good)
    assert bool(is_finite(metrics))
    before = jax.tree.map(np.asarray, state)
    state, metrics = step(state, bad)
    assert not bool(is_finite(metrics))
    assert int(state.step) == 2
    jax.tree.map(
        np.testing.assert_array_equal,
        (state.variables, state.optimizer),
        (before.variables, before.optimizer),
    )
    state, _ = step(state, good)
    assert float(state.variables["params"]["w"][2]) < float(before.variables["params"]["w"][2])
