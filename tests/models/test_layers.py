import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccnet_jax.models.layers import ConvNorm, JoinedConv, conv, relu_of_sum


def test_relu_of_sum_is_relu_of_the_sum_with_its_gradient():
    x, y = np.random.default_rng(0).normal(size=(2, 1, 5, 7, 3)).astype(np.float32)
    y[0, 0] = -x[0, 0]  # sums of exactly 0
    upstream = jnp.asarray(np.random.default_rng(1).normal(size=x.shape), jnp.float32)

    def with_gradients(function):
        out, pull = jax.vjp(function, jnp.asarray(x), jnp.asarray(y))
        return out, *pull(upstream)

    jax.tree.map(
        np.testing.assert_array_equal,
        with_gradients(relu_of_sum),
        with_gradients(lambda x, y: jax.nn.relu(x + y)),
    )


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("channels", [(3, 5), (2, 4, 1)])
def test_a_joined_convolution_is_that_of_the_joined_array(size, channels):
    parts = tuple(jax.random.normal(jax.random.key(n), (2, 5, 6, count)) for n, count in enumerate(channels))
    joined, plain = JoinedConv(4, size), conv(4, size, name="conv")
    variables = joined.init(jax.random.key(9), parts)
    whole = jnp.concatenate(parts, -1)
    shapes = [jax.tree.map(jnp.shape, x) for x in (variables, plain.init(jax.random.key(9), whole))]
    assert shapes[0] == shapes[1]

    def gradients(apply, x):
        return jax.grad(lambda variables, x: (apply(variables, x) ** 2).sum(), (0, 1))(variables, x)

    np.testing.assert_allclose(joined.apply(variables, parts), plain.apply(variables, whole), atol=1e-5)
    of_kernel, of_parts = gradients(joined.apply, parts)
    wanted_of_kernel, wanted = gradients(plain.apply, whole)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), of_kernel, wanted_of_kernel
    )
    np.testing.assert_allclose(jnp.concatenate(of_parts, -1), wanted, atol=1e-4)


def test_joined_arrays_start_from_the_same_weights_as_a_joined_array():
    parts = (jnp.ones((1, 4, 4, 3)), jnp.ones((1, 4, 4, 2)))
    layer: nn.Module = ConvNorm(4)
    of_parts = layer.init(jax.random.key(3), parts, True)
    of_whole = layer.init(jax.random.key(3), jnp.concatenate(parts, -1), True)
    jax.tree.map(np.testing.assert_array_equal, of_parts, of_whole)
