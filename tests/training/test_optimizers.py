import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest

from ccnet_jax.training.optimizers import poly_schedule, sgd


def settings(**changes):
    values = {
        "learning_rate": 0.1,
        "min_learning_rate": 0.0,
        "momentum": 0.9,
        "weight_decay": 1e-2,
        "power": 0.9,
    }
    return ml_collections.ConfigDict(values | changes)


@pytest.mark.parametrize("minimum", [0.0, 1e-4])
def test_poly_rate(minimum):
    schedule = poly_schedule(settings(min_learning_rate=minimum), 40)
    for step in (0, 1, 17, 39, 40):
        wanted = (0.1 - minimum) * (1 - step / 40) ** 0.9 + minimum
        np.testing.assert_allclose(schedule(step), wanted, rtol=1e-5, atol=1e-9)


def test_three_updates_equal_pytorchs_rule():
    """PyTorch's SGD: g += decay * p; buffer = momentum * buffer + g; p -= rate * buffer."""
    optimizer = sgd(settings(), 10)
    p = {"w": jnp.array([1.0, -2.0])}
    state = optimizer.init(p)
    by_hand, buffer = np.array([1.0, -2.0]), np.zeros(2)
    for step in range(3):
        gradient = np.array([0.5, 0.25]) * (step + 1)
        updates, state = optimizer.update({"w": jnp.asarray(gradient, jnp.float32)}, state, p)
        p = optax.apply_updates(p, updates)
        buffer = 0.9 * buffer + gradient + 1e-2 * by_hand
        by_hand = by_hand - 0.1 * (1 - step / 10) ** 0.9 * buffer
        np.testing.assert_allclose(p["w"], by_hand, rtol=1e-5)
