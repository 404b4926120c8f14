"""Counted operations against counts by hand."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from ccnet_jax.models.contexts.nonlocal_ import NonLocal
from ccnet_jax.models.criss_cross import RCCA
from ccnet_jax.tools.costs import flops
from ccnet_jax.tools.costs.flops import (
    COUNTED,
    Operations,
    counted_attention,
    criss_cross_products,
    operations,
)
from kernels.criss_cross import IMPLEMENTATIONS


def shape(*sides):
    return jax.ShapeDtypeStruct(sides, jnp.float32)


def products(function, *arguments):
    return flops.total(operations(function, *arguments)).products


def convolution(x, kernel, stride=1, pad=1, **options):
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), [(pad, pad)] * 2, dimension_numbers=numbers, **options
    )


def gradients(function):
    return jax.grad(lambda *arguments: (function(*arguments) ** 2).sum(), (0, 1))


@pytest.mark.parametrize(
    ("stride", "positions", "options", "taps"),
    [
        (1, 10 * 12, {}, 9 * 3),
        (2, 5 * 6, {}, 9 * 3),
        (1, 8 * 10, {"rhs_dilation": (2, 2)}, 9 * 3),
        (1, 10 * 12, {"feature_group_count": 3}, 9),
    ],
)
def test_a_convolution_and_its_gradients(stride, positions, options, taps):
    channels = 3 if options.get("feature_group_count") else 8
    x, kernel = shape(2, 10, 12, 3), shape(3, 3, taps // 9, channels)
    forward = 2 * (2 * positions * channels) * taps

    def function(x, kernel):
        return convolution(x, kernel, stride, **options)

    assert products(function, x, kernel) == forward
    assert products(gradients(function), x, kernel) == 3 * forward


def test_a_matrix_product_and_its_gradients():
    x, kernel = shape(2, 5, 7), shape(7, 11)
    assert products(jnp.matmul, x, kernel) == 2 * (2 * 5) * 7 * 11
    assert products(gradients(jnp.matmul), x, kernel) == 3 * 2 * (2 * 5) * 7 * 11


def test_loops_and_branches():
    x, kernel = shape(4, 4), shape(4, 4)
    once = 2 * 4**3

    def looped(x, kernel):
        return jax.lax.scan(lambda x, _: (x @ kernel, None), x, None, length=5)[0]

    def branched(x, kernel):
        return jax.lax.cond(x[0, 0] > 0, lambda: x @ kernel, lambda: x @ kernel @ kernel)

    def forever(x, kernel):
        return jax.lax.while_loop(lambda x: x[0, 0] > 0, lambda x: x @ kernel, x)

    assert products(looped, x, kernel) == 5 * once
    assert products(gradients(looped), x, kernel) == 15 * once
    assert products(branched, x, kernel) == 2 * once
    with pytest.raises(ValueError, match="length is not known"):
        products(forever, x, kernel)


def test_what_is_computed_again_counts_again():
    x, kernel = shape(4, 4), shape(4, 4)

    def twice(x, kernel):
        return jnp.sin(jnp.sin(x @ kernel) @ kernel)

    plain, again = (
        products(gradients(twice), x, kernel),
        products(gradients(jax.checkpoint(twice)), x, kernel),
    )
    assert plain == 6 * 2 * 4**3
    assert again == plain + 2 * 2 * 4**3


def test_what_no_result_needs_does_not_count():
    def function(x):
        return x @ x, (x @ x @ x)[:0].sum() * 0

    assert products(lambda x: function(x)[0], shape(4, 4)) == 2 * 4**3


def test_elementwise_work_is_apart():
    (count,) = operations(lambda x: jnp.exp(x) * x, shape(3, 5)).values()
    assert count == Operations(products=0, elementwise=2 * 15)
    assert flops.total(operations(lambda x: x.sum(), shape(3, 5))).elementwise == 15


def test_work_is_found_under_the_names_of_its_modules():
    class Outer(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(3, name="first")(nn.relu(nn.Dense(5, name="second")(x)))

    module, x = Outer(), shape(2, 4)
    variables = jax.eval_shape(module.init, jax.random.key(0), x)
    found = operations(jax.value_and_grad(lambda v, x: module.apply(v, x).sum()), variables, x)
    by_name = {
        name: sum(c.products for path, c in found.items() if name in path) for name in ("first", "second")
    }
    assert by_name == {"first": 3 * 2 * 2 * 5 * 3, "second": 2 * 2 * 2 * 4 * 5}  # x itself has no gradient
    assert any("transpose" in path for path in found)


def test_criss_cross_attention_counts_by_its_definition():
    x = shape(2, 5, 7, 16)
    with counted_attention():
        module = RCCA(2, implementation=COUNTED)
        variables = jax.eval_shape(RCCA(2, implementation="xla").init, jax.random.key(0), x)
        forward = products(module.apply, variables, x)
        both = products(jax.value_and_grad(lambda v, x: module.apply(v, x).sum(), (0, 1)), variables, x)
    assert COUNTED not in IMPLEMENTATIONS
    projections = 2 * (2 * 5 * 7) * 16 * (2 + 2 + 16)
    attention = 2 * (2 * 5 * 7) * (5 + 7 - 1) * (2 + 16)
    assert criss_cross_products((2, 5, 7), 2, 16) == attention
    assert forward == 2 * (projections + attention)
    assert both == 3 * forward


def test_remat_keeps_the_attention_and_computes_the_projections_again():
    x = shape(1, 5, 7, 16)
    variables = jax.eval_shape(RCCA(1, implementation="xla").init, jax.random.key(0), x)

    def counted(remat):
        module = RCCA(1, implementation=COUNTED, remat=remat)
        return products(jax.grad(lambda v, x: module.apply(v, x).sum(), (0, 1)), variables, x)

    with counted_attention():
        assert counted(True) - counted(False) == 2 * (5 * 7) * 16 * (2 + 2 + 16)


def test_a_kernel_that_cannot_be_counted_is_an_error():
    x = shape(1, 5, 7, 16)
    module = RCCA(1, implementation="triton_interpret")
    if IMPLEMENTATIONS["triton_interpret"].unavailable():
        pytest.skip("this JAX has no Pallas Triton backend")
    variables = jax.eval_shape(RCCA(1, implementation="xla").init, jax.random.key(0), x)
    with pytest.raises(ValueError, match="cannot be counted"):
        operations(module.apply, variables, x)


def test_the_papers_numbers():
    """Tables 3 and 5: 8.3, 16.5, 24.7 GFLOP for 1, 2, 3 loops of RCCA at 97x97, and 108 for Non-local.

    Three loops are 24.77; the paper cuts off where others round.
    """
    x, small = shape(1, 97, 97, 512), shape(1, 2, 2, 512)

    def gflop(module, like):
        variables = jax.eval_shape(like.init, jax.random.key(0), small)
        return products(module.apply, variables, x) / 1e9

    with counted_attention():
        loops = [gflop(RCCA(n, implementation=COUNTED), RCCA(1, implementation="xla")) for n in (1, 2, 3)]
    assert loops[0] == pytest.approx(8.258241664)
    assert [f"{x:.2f}" for x in loops] == ["8.26", "16.52", "24.77"]
    assert [f"{x:.1f}" for x in loops[:2]] == ["8.3", "16.5"]
    assert int(10 * loops[2]) / 10 == 24.7
    nonlocal_ = gflop(NonLocal(), NonLocal())
    assert f"{nonlocal_:.2f}" == "108.15"
