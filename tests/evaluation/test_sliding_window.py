"""Sliding windows: they cover every pixel, lie inside the image, and count each pixel right."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ccnet_jax.common import devices
from ccnet_jax.evaluation.sliding_window import sliding_window_logits, window_starts


@given(st.integers(1, 400), st.integers(1, 400), st.data())
def test_windows_cover_a_side_and_lie_inside_it(side, window, data):
    stride = data.draw(st.integers(1, window))
    starts = window_starts(side, window, stride)
    covered = np.zeros(side, int)
    for start in starts:
        assert start >= 0
        assert start + window <= max(side, window)
        covered[start : start + window] += 1
    assert covered.min() > 0
    assert len(starts) == 1 + max(-(-(side - window) // stride), 0)
    assert starts == sorted(set(starts))


def stepped(x):
    """Logits of windows [N, h, w, 3] -> [N, h, w, 2]: the images' values, and ones."""
    return jnp.concatenate([x[..., :1], jnp.ones_like(x[..., :1])], -1)


@settings(max_examples=12, deadline=None)
@given(st.sampled_from([(9, 14), (10, 10)]), st.sampled_from([(4, 5), (9, 3), (20, 20)]), st.data())
def test_the_mean_over_windows_of_a_pointwise_network_is_that_network(size, window, data):
    stride = tuple(data.draw(st.integers(max(side // 2, 1), side)) for side in window)
    x = jnp.asarray(np.random.default_rng(0).uniform(0, 255, (2, *size, 3)), jnp.float32)
    got = sliding_window_logits(stepped, x, 2, window, stride, False)
    np.testing.assert_allclose(got, stepped(x), rtol=1e-5)


def test_a_batch_stays_split_over_the_devices():
    split = devices.batch_sharding(devices.data_mesh())
    x = np.random.default_rng(0).uniform(0, 255, (8, 20, 24, 3)).astype(np.float32)
    logits = sliding_window_logits(stepped, jax.device_put(x, split), 2, (12, 12), (8, 8), True)
    assert logits.sharding.is_equivalent_to(split, logits.ndim)
    np.testing.assert_allclose(logits, stepped(x), rtol=1e-5)
