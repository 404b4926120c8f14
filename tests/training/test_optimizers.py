import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ccnet_jax.models.criss_cross import RCCA
from ccnet_jax.training.optimizers import OPTIMIZERS, OptimizerConfig, build_optimizer, decay_mask

START = [[1.0, -2.0], [0.5, 3.0]]  # a kernel: it has two axes
SETTINGS = {"learning_rate": 0.1, "weight_decay": 1e-2, "power": 0.9}


def trained(config, steps=10, made=3, start=START):
    """The parameter "kernel" after each step, the gradient being the number of the step."""
    optimizer = build_optimizer(config, steps)
    params = {"kernel": jnp.array(start)}
    state = optimizer.init(params)
    seen = []
    for step in range(1, made + 1):
        gradients = jax.tree.map(lambda p, step=step: jnp.full_like(p, 0.25 * step), params)
        changes, state = optimizer.update(gradients, state, params)
        params = optax.apply_updates(params, changes)
        seen.append(np.asarray(params["kernel"]))
    return seen


def rate(step, steps=10):
    return 0.1 * (1 - step / steps) ** 0.9


def test_sgd_updates_by_pytorchs_rule():
    """g += decay * p; buffer = momentum * buffer + g; p -= rate * buffer."""
    by_hand, buffer = np.array(START), np.zeros((2, 2))
    for step, got in enumerate(trained(OptimizerConfig(name="sgd", momentum=0.9, **SETTINGS))):
        buffer = 0.9 * buffer + 0.25 * (step + 1) + 1e-2 * by_hand
        by_hand = by_hand - rate(step) * buffer
        np.testing.assert_allclose(got, by_hand, rtol=1e-5)


def test_adamw_updates_by_pytorchs_rule():
    """p -= rate * decay * p; p -= rate * (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + 1e-8)."""
    by_hand, m, v = np.array(START), np.zeros((2, 2)), np.zeros((2, 2))
    config = OptimizerConfig(name="adamw", beta1=0.8, beta2=0.95, **SETTINGS)
    for step, got in enumerate(trained(config)):
        gradient = 0.25 * (step + 1)
        m, v = 0.8 * m + 0.2 * gradient, 0.95 * v + 0.05 * gradient**2
        by_hand = by_hand - rate(step) * 1e-2 * by_hand
        corrected = (v / (1 - 0.95 ** (step + 1))) ** 0.5
        by_hand = by_hand - rate(step) * m / (1 - 0.8 ** (step + 1)) / (corrected + 1e-8)
        np.testing.assert_allclose(got, by_hand, rtol=1e-5)


def test_adamw_has_pytorchs_defaults():
    assert (OptimizerConfig().beta1, OptimizerConfig().beta2) == (0.9, 0.999)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_decay_can_leave_out_norms_biases_and_gamma(name):
    params = {
        "conv": {"kernel": jnp.ones((3, 3, 2, 4)), "bias": jnp.ones(4)},
        "norm": {"scale": jnp.ones(4), "bias": jnp.ones(4)},
        "rcca": jax.eval_shape(RCCA().init, jax.random.key(0), jnp.zeros((1, 4, 4, 16)))["params"],
    }
    params = jax.tree.map(lambda like: jnp.ones(like.shape), params)
    config = OptimizerConfig(name=name, weight_decay=0.5, decay_norms_and_biases=False)
    optimizer = build_optimizer(config, 10)
    without_gradient = jax.tree.map(jnp.zeros_like, params)
    changes, _ = optimizer.update(without_gradient, optimizer.init(params), params)
    for path, change in jax.tree_util.tree_leaves_with_path(changes):
        assert bool((change != 0).all()) == (path[-1].key == "kernel"), path
    assert decay_mask(OptimizerConfig()) is None


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_gradient_is_clipped_before_everything(name):
    params = {"a": jnp.ones((2, 2)), "b": jnp.ones(3)}
    large = {"a": jnp.full((2, 2), 3.0), "b": jnp.full(3, -4.0)}
    norm = float(optax.tree.norm(large))
    config = OptimizerConfig(name=name, **SETTINGS)
    clipping = build_optimizer(OptimizerConfig(name=name, clip_norm=0.5, **SETTINGS), 10)
    plain = build_optimizer(config, 10)
    got, _ = clipping.update(large, clipping.init(params), params)
    scaled = jax.tree.map(lambda gradient: gradient * 0.5 / norm, large)
    wanted, _ = plain.update(scaled, plain.init(params), params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), got, wanted)
    got, _ = clipping.update(scaled, clipping.init(params), params)  # small enough: unchanged
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), got, wanted)


def test_the_default_has_the_bits_and_the_state_of_earlier_versions():
    earlier = optax.chain(
        optax.add_decayed_weights(1e-4),
        optax.trace(0.9),
        optax.scale_by_learning_rate(optax.polynomial_schedule(1e-2, 0.0, 0.9, transition_steps=10)),
    )
    now = build_optimizer(OptimizerConfig(), 10)
    params = {"kernel": jnp.array(START)}
    states = [earlier.init(params), now.init(params)]
    assert jax.tree.structure(states[0]) == jax.tree.structure(states[1])
    for step in range(3):
        gradients = {"kernel": jnp.full((2, 2), 0.3 * step - 1)}
        changes, states = zip(
            *(
                jax.jit(optimizer.update)(gradients, state, params)
                for optimizer, state in zip((earlier, now), states, strict=True)
            ),
            strict=True,
        )
        jax.tree.map(np.testing.assert_array_equal, *changes)
        jax.tree.map(np.testing.assert_array_equal, *states)


def test_a_warmup_that_leaves_no_steps_gets_a_message():
    with pytest.raises(ValueError, match="warmup_steps=10 must be less than config.steps=10"):
        build_optimizer(OptimizerConfig(warmup_steps=10), 10)
