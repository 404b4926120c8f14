import jax.numpy as jnp
import numpy as np
import pytest

from kernels.criss_cross.factor import Factor


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def exact(factor):
    """The same parts in float32: not every CPU multiplies bfloat16."""
    return Factor(tuple(part.astype(jnp.float32) for part in factor.parts))


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e30])
def test_the_parts_of_a_float32_matrix_hold_every_bit(scale):
    x = normal(0, 30, 40) * jnp.float32(scale)
    parts = Factor.of(x).parts
    assert [part.dtype for part in parts] == [jnp.bfloat16] * 3
    np.testing.assert_array_equal(
        sum(np.asarray(part, np.float64) for part in parts), np.asarray(x, np.float64)
    )


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_a_matrix_of_16_bits_is_one_part(dtype):
    x = normal(0, 3, 4).astype(dtype)
    (part,) = Factor.of(x).parts
    assert part.dtype == dtype
    assert (part == x).all()


def test_a_product_of_float32_is_as_exact_as_float32():
    a, b, onto = normal(1, 33, 500), normal(2, 500, 20), normal(3, 33, 20)
    wanted = np.asarray(onto, np.float64) + np.asarray(a, np.float64) @ np.asarray(b, np.float64)
    got = exact(Factor.of(a)).times(exact(Factor.of(b)), onto)
    assert np.abs(got - wanted).max() < 1e-6 * np.abs(wanted).max()
    one_part = Factor((a.astype(jnp.bfloat16).astype(jnp.float32),)).times(exact(Factor.of(b)), onto)
    assert np.abs(one_part - wanted).max() > 1e-4 * np.abs(wanted).max()


def test_the_transpose_is_that_of_every_part():
    a, b = normal(1, 6, 5), normal(2, 7, 5)
    got = exact(Factor.of(a)).times(exact(Factor.of(b)).T)
    np.testing.assert_allclose(got, np.asarray(a) @ np.asarray(b).T, rtol=1e-5, atol=1e-6)
