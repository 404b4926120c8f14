import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccnet_jax.training.losses import cross_entropy, ohem_cross_entropy


def sample(shape=(2, 9, 11), classes=5, seed=0):
    rng = np.random.default_rng(seed)
    logits = rng.standard_normal((*shape, classes)).astype(np.float32) * 3
    labels = rng.integers(0, classes, shape).astype(np.uint8)
    labels[rng.random(shape) < 0.2] = 255
    return logits, labels


def log_probabilities(logits, labels):
    """log p of the true class of each valid pixel, in float64."""
    logits = logits.astype(np.float64)
    valid = labels != 255
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return np.take_along_axis(log_p[valid], labels[valid][:, None].astype(int), -1)[:, 0]


def test_cross_entropy_is_the_mean_over_valid_pixels():
    logits, labels = sample()
    np.testing.assert_allclose(
        cross_entropy(logits, labels), -log_probabilities(logits, labels).mean(), rtol=1e-5
    )


def test_cross_entropy_gradient_is_softmax_minus_one_hot_and_zero_on_void():
    logits, labels = sample()
    gradient = np.asarray(jax.grad(cross_entropy)(jnp.asarray(logits), labels), np.float64)
    valid = labels != 255
    softmax = np.exp(logits.astype(np.float64))
    softmax /= softmax.sum(-1, keepdims=True)
    wanted = (softmax - np.eye(5)[np.where(valid, labels, 0)]) * valid[..., None] / valid.sum()
    np.testing.assert_allclose(gradient, wanted, atol=1e-7)


def test_a_batch_of_void_costs_nothing():
    logits, labels = sample()
    labels[:] = 255
    for loss in (cross_entropy, ohem_cross_entropy):
        value, gradient = jax.value_and_grad(loss)(jnp.asarray(logits), labels)
        assert float(value) == 0
        assert not gradient.any()


def ohem_by_sorting(logits, labels, threshold, kept):
    """Keep what is at most as probable as the threshold, and at least the `kept` least probable."""
    log_p = np.sort(log_probabilities(logits, labels))
    kept = min(kept, len(log_p))
    count = max((np.exp(log_p) <= threshold).sum(), kept)
    return -log_p[:count].mean()


@pytest.mark.parametrize("threshold", [0.01, 0.3, 0.7])
@pytest.mark.parametrize("min_kept", [1, 30, 70, 10_000])
def test_ohem_keeps_the_hard_pixels(threshold, min_kept):
    logits, labels = sample()
    got = ohem_cross_entropy(jnp.asarray(logits), labels, threshold, min_kept)
    np.testing.assert_allclose(got, ohem_by_sorting(logits, labels, threshold, 2 * min_kept), rtol=1e-5)


def test_ohem_differs_from_plain_cross_entropy_where_pixels_are_easy():
    logits, labels = sample()
    hard = ohem_cross_entropy(jnp.asarray(logits), labels, 0.3, 1)
    assert float(hard) > float(cross_entropy(logits, labels))
