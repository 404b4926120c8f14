import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccnet_jax.models import layers
from ccnet_jax.models.layers import ConvNorm, JoinedConv, conv, relu_of_sum

pytestmark = pytest.mark.slow


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
    assert jnp.isnan(relu_of_sum(jnp.float32([[[[jnp.nan]]]]), jnp.float32([[[[1]]]]))).all()


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
        return jax.jit(jax.grad(lambda variables, x: (apply(variables, x) ** 2).sum(), (0, 1)))(variables, x)

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


@pytest.mark.parametrize(
    ("height", "width", "dilation", "size"), [(9, 13, 4, 3), (7, 5, 12, 3), (10, 6, 3, 5), (1, 1, 2, 3)]
)
def test_on_a_gpu_a_dilated_convolution_is_an_undilated_one_of_each_phase(
    monkeypatch, height, width, dilation, size
):
    layer = conv(6, size, dilation=dilation, bias=True, name="conv")
    x = jax.random.normal(jax.random.key(0), (2, height, width, 8))
    variables = layer.init(jax.random.key(1), x)

    def results_and_gradients():  # a new function each time: a traced one would be taken from a cache
        def function(variables, x):
            return layer.apply(variables, x)

        @jax.jit
        def both(variables, x):
            out, pull = jax.vjp(function, variables, x)
            return out, pull(jnp.cos(out))

        return str(jax.make_jaxpr(function)(variables, x)), *both(variables, x)

    program, out, gradients = results_and_gradients()
    monkeypatch.setattr(layers.device, "kind", lambda: ("gpu", "NVIDIA H200"))
    on_gpu, out_on_gpu, gradients_on_gpu = results_and_gradients()
    assert f"rhs_dilation=({dilation}, {dilation})" in program
    assert "rhs_dilation=(1, 1)" in on_gpu
    assert out_on_gpu.shape == out.shape
    np.testing.assert_allclose(out_on_gpu, out, atol=2e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4), gradients_on_gpu, gradients)
