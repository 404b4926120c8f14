import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccnet_jax.models.detection.boxes import overlaps
from ccnet_jax.models.detection.suppression import not_suppressed


def greedy(boxes, scores, used, threshold):
    """One box after the other."""
    table = np.asarray(overlaps(jnp.asarray(boxes), jnp.asarray(boxes)))
    kept = []
    for i in np.argsort(-scores, kind="stable"):
        if used[i] and all(table[i, j] <= threshold for j in kept):
            kept.append(i)
    return np.isin(np.arange(len(boxes)), kept)


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.7])
def test_it_is_the_greedy_choice(threshold):
    rng = np.random.default_rng(0)
    keep = jax.jit(not_suppressed, static_argnums=3)
    for _ in range(5):
        corner, side = rng.uniform(0, 30, (80, 2)), rng.uniform(20, 60, (80, 2))
        boxes = np.concatenate([corner, corner + side], 1).astype(np.float32)
        scores, used = rng.normal(size=80).astype(np.float32), rng.random(80) < 0.8
        wanted = greedy(boxes, scores, used, threshold)
        found = keep(jnp.asarray(boxes), jnp.asarray(scores), jnp.asarray(used), threshold)
        np.testing.assert_array_equal(found, wanted)
        assert 1 < wanted.sum() < used.sum()


def test_a_long_chain_is_decided():
    """Every box overlaps its neighbours alone: every second one stays."""
    x = np.arange(20, dtype=np.float32)
    boxes = np.stack([x, 0 * x, x + 1.5, 0 * x + 1], 1)
    scores = jnp.asarray(-x)
    kept = not_suppressed(jnp.asarray(boxes), scores, jnp.ones(20, bool), 0.1)
    np.testing.assert_array_equal(kept, x % 2 == 0)


def test_of_equal_scores_the_first_stays():
    boxes = jnp.tile(jnp.array([[0.0, 0, 10, 10]]), (3, 1))
    kept = not_suppressed(boxes, jnp.zeros(3), jnp.array([False, True, True]), 0.5)
    np.testing.assert_array_equal(kept, [False, True, False])
