import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccnet_jax.models.batch_norm import BatchNorm, normalize

pytestmark = pytest.mark.slow

SHAPE = (3, 7, 5, 11)


def inputs(dtype=jnp.float32, mean=0.7):
    """x, the gradient of the result, and variables that are not the first ones."""
    keys = jax.random.split(jax.random.key(0), 6)
    x = 2 * jax.random.normal(keys[0], SHAPE) + mean * jax.random.normal(keys[1], SHAPE[-1:])
    params = {
        "scale": jax.random.normal(keys[2], SHAPE[-1:]),
        "bias": jax.random.normal(keys[3], SHAPE[-1:]),
    }
    statistics = {"mean": jax.random.normal(keys[4], SHAPE[-1:]), "var": jnp.full(SHAPE[-1:], 1.5)}
    gradient = jax.random.normal(keys[5], SHAPE)
    return x.astype(dtype), gradient.astype(dtype), {"params": params, "batch_stats": statistics}


def outputs(module, x, gradient, variables):
    """The result, the new statistics, and the gradients of parameters and x."""

    def apply(params, x):
        return module.apply({**variables, "params": params}, x, mutable=["batch_stats"])

    out, pullback, new = jax.vjp(apply, variables["params"], x, has_aux=True)
    return out, new["batch_stats"], pullback(gradient)


@pytest.mark.parametrize(("dtype", "bound"), [(jnp.float32, 2e-6), (jnp.bfloat16, 2e-2)])
@pytest.mark.parametrize("running", [False, True])
def test_it_is_flax_batch_norm(running, dtype, bound):
    case = inputs(dtype)
    ours, flax = BatchNorm(running, dtype=dtype), nn.BatchNorm(running, momentum=0.9, dtype=dtype)
    initial = [module.init(jax.random.key(0), case[0]) for module in (ours, flax)]
    jax.tree.map(np.testing.assert_array_equal, *initial)

    found, expected = outputs(ours, *case), outputs(flax, *case)
    assert found[0].dtype == dtype
    if not running:  # Flax keeps the biased variance
        values, before = np.prod(SHAPE[:-1]), 0.9 * case[2]["batch_stats"]["var"]
        expected[1]["var"] = before + (expected[1]["var"] - before) * values / (values - 1)

    def compare(a, b):
        assert a.dtype == b.dtype
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        np.testing.assert_allclose(a, b, rtol=0, atol=bound * np.abs(b).max())

    jax.tree.map(compare, found, expected)


def test_the_derivative_is_that_of_the_formula():
    """In float64, in which finite differences tell something, along every input, of all three results."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        start = [jnp.asarray(rng.normal(1, 2, shape)) for shape in ((2, 3, 4, 5), 5, 5)]
        change = [jnp.asarray(rng.normal(size=value.shape)) for value in start]

        def along(step):
            return normalize(*(a + step * b for a, b in zip(start, change, strict=True)), 1e-5)

        _, found = jax.jvp(along, (0.0,), (1.0,))
        for exact, after, before in zip(found, along(1e-5), along(-1e-5), strict=True):
            np.testing.assert_allclose(exact, (after - before) / 2e-5, rtol=1e-7, atol=1e-8)


def test_a_mean_far_from_zero_costs_no_more_than_in_flax():
    case = inputs(mean=100.0)
    ours, flax = (outputs(module, *case)[2] for module in (BatchNorm(False), nn.BatchNorm(False)))
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), case)
        exact = jax.tree.map(np.asarray, outputs(BatchNorm(False), *wide)[2])
    for a, b, c in zip(*map(jax.tree.leaves, (ours, flax, exact)), strict=True):
        assert np.abs(a - c).max() <= 1.5 * np.abs(b - c).max() + 1e-6 * np.abs(c).max()


def test_a_constant_channel_has_finite_gradients():
    x, gradient, variables = inputs()
    x = x.at[..., 3].set(0.1)
    out, _, (params, of_x) = outputs(BatchNorm(False), x, gradient, variables)
    np.testing.assert_allclose(out[..., 3], variables["params"]["bias"][3], atol=1e-3)
    for value in (out, params["scale"], params["bias"], of_x):
        assert np.isfinite(value).all()


def test_the_gradient_keeps_one_array_of_the_size_of_x():
    x, _, variables = inputs()

    def apply(params, x):
        return BatchNorm(False).apply({**variables, "params": params}, x, mutable=["batch_stats"])[0]

    kept = [a for a in jax.tree.leaves(jax.vjp(apply, variables["params"], x)[1]) if np.shape(a) == SHAPE]
    assert kept
    for value in kept:
        np.testing.assert_array_equal(value, x)
