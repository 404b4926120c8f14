import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccnet_jax import RCCA, CrissCrossAttention
from kernels import criss_cross_attention
from kernels.criss_cross import IMPLEMENTATIONS, Backend
from tests.helpers import fresh_python, with_gamma

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("loops", [1, 2, 3])
def test_rcca_has_one_set_of_parameters_for_any_loop_count(loops):
    x = jnp.zeros((1, 4, 5, 16))
    variables = RCCA(loops).init(jax.random.key(0), x)
    shapes = jax.tree.map(jnp.shape, variables["params"])
    assert shapes == {
        "attention": {
            "query": {"kernel": (16, 2), "bias": (2,)},
            "key": {"kernel": (16, 2), "bias": (2,)},
            "value": {"kernel": (16, 16), "bias": (16,)},
            "gamma": (),
        }
    }


def test_gamma_starts_at_zero_so_the_module_starts_as_identity():
    x = jax.random.normal(jax.random.key(1), (2, 4, 5, 16))
    out, variables = RCCA(2).init_with_output(jax.random.key(0), x)
    np.testing.assert_array_equal(out, x)
    assert float(variables["params"]["attention"]["gamma"]) == 0


def test_layer_is_gamma_times_the_op_plus_its_input():
    x = jax.random.normal(jax.random.key(1), (2, 4, 5, 16))
    variables = with_gamma(CrissCrossAttention().init(jax.random.key(0), x), 0.7)
    p = variables["params"]
    query, key, value = (x @ p[n]["kernel"] + p[n]["bias"] for n in ("query", "key", "value"))
    wanted = 0.7 * criss_cross_attention(query, key, value) + x
    np.testing.assert_allclose(CrissCrossAttention().apply(variables, x), wanted, rtol=1e-5, atol=1e-6)


class LoopByHand(nn.Module):
    """RCCA without a scan: the same layer called `loops` times. Older checkpoints come from this form."""

    loops: int

    @nn.compact
    def __call__(self, x):
        attention = CrissCrossAttention(name="attention")
        for _ in range(self.loops):
            x = attention(x)
        return x


@pytest.mark.parametrize("remat", [False, True])
@pytest.mark.parametrize("loops", [1, 2, 3])
def test_the_scan_initializes_the_same_parameters_as_the_loop_by_hand(loops, remat):
    x = jnp.zeros((1, 4, 5, 16))
    got = RCCA(loops, remat=remat).init(jax.random.key(0), x)
    want = LoopByHand(loops).init(jax.random.key(0), x)
    jax.tree.map(np.testing.assert_array_equal, got, want)


@pytest.mark.parametrize("remat", [False, True])
@pytest.mark.parametrize("loops", [1, 2, 3])
def test_outputs_and_gradients_equal_those_of_the_loop_by_hand(loops, remat):
    x = jax.random.normal(jax.random.key(1), (1, 4, 5, 16))
    variables = with_gamma(LoopByHand(loops).init(jax.random.key(0), x), 0.7)

    def results(module):
        def total(variables, x):
            out = module.apply(variables, x)
            return (out**2).sum(), out

        (_, out), gradients = jax.jit(jax.value_and_grad(total, (0, 1), has_aux=True))(variables, x)
        return out, gradients

    got, want = results(RCCA(loops, remat=remat)), results(LoopByHand(loops))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), got, want)


def test_rcca_works_under_vmap_and_checkpoint():
    x = jax.random.normal(jax.random.key(1), (3, 1, 4, 5, 16))
    variables = with_gamma(RCCA(2).init(jax.random.key(0), x[0]), 0.7)

    def loss(x):
        return (RCCA(2).apply(variables, x) ** 2).sum()

    gradient = jax.jit(jax.grad(loss))
    wanted = jnp.stack([gradient(one) for one in x])
    for other in (jax.vmap(jax.grad(loss)), jax.vmap(jax.grad(jax.checkpoint(loss)))):
        np.testing.assert_allclose(jax.jit(other)(x), wanted, rtol=1e-4, atol=1e-4)


def test_rcca_uses_a_backend_that_was_added(monkeypatch):
    def nothing(arrays, key_channels):
        packed = arrays[0]
        return jnp.zeros((*packed.shape[:3], packed.shape[3] - 2 * key_channels)), jnp.zeros(packed.shape[:3])

    monkeypatch.setitem(IMPLEMENTATIONS, "nothing", Backend(nothing))
    x = jax.random.normal(jax.random.key(1), (1, 4, 5, 16))
    variables = with_gamma(RCCA(2).init(jax.random.key(0), x), 0.7)
    np.testing.assert_array_equal(RCCA(2, implementation="nothing").apply(variables, x), x)


def test_captured_intermediates_hold_every_loop():
    x = jax.random.normal(jax.random.key(1), (1, 4, 5, 16))
    variables = with_gamma(RCCA(3).init(jax.random.key(0), x), 0.7)
    out, state = RCCA(3).apply(variables, x, capture_intermediates=True, mutable="intermediates")
    (loops,) = state["intermediates"]["attention"]["__call__"]
    assert loops.shape == (3, *x.shape)
    np.testing.assert_array_equal(loops[-1], out)
    np.testing.assert_allclose(loops[0], RCCA(1).apply(variables, x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("remat", [False, True])
def test_kernels_and_remat_give_rcca_the_same_gradients(remat):
    x = jax.random.normal(jax.random.key(1), (1, 5, 7, 16))
    plain = RCCA(2, implementation="xla")
    variables = with_gamma(plain.init(jax.random.key(0), x), 0.7)
    fused = RCCA(2, implementation="triton_interpret", remat=remat)

    def gradients(module):
        return jax.jit(jax.grad(lambda v, x: (module.apply(v, x) ** 2).sum(), (0, 1)))(variables, x)

    got, want = gradients(fused), gradients(plain)
    assert jax.tree.all(jax.tree.map(lambda g: bool(jnp.abs(g).max() > 0), want[0]))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3), got, want)


def test_gradients_equal_those_of_the_layer_written_out():
    x = jax.random.normal(jax.random.key(1), (1, 4, 5, 16))
    variables = with_gamma(CrissCrossAttention().init(jax.random.key(0), x), 0.7)

    def written_out(variables, x):
        p = variables["params"]
        query, key, value = (x @ p[n]["kernel"] + p[n]["bias"] for n in ("query", "key", "value"))
        return p["gamma"] * criss_cross_attention(query, key, value) + x

    got, want = (
        jax.jit(jax.grad(lambda v, x, f=f: (f(v, x) ** 2).sum(), (0, 1)))(variables, x)
        for f in (CrissCrossAttention().apply, written_out)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), got, want)


def test_remat_keeps_the_attention_and_computes_the_projections_again():
    x = jax.random.normal(jax.random.key(1), (1, 5, 7, 16))
    variables = with_gamma(RCCA(2, implementation="xla").init(jax.random.key(0), x), 0.7)

    def counts(remat):
        module = RCCA(2, implementation="triton_interpret", remat=remat)
        program = str(jax.make_jaxpr(jax.grad(lambda x: module.apply(variables, x).sum()))(x))
        return program.count("criss_cross_forward_rows"), program.count("remat")

    kept, recomputed = counts(False), counts(True)
    assert kept[0] == recomputed[0] > 0  # no kernel of the forward pass runs twice
    assert kept[1] == 0 < recomputed[1]


def dependence(loops):
    """[H, W, H, W]: whether output pixel (y, x) changes with input pixel (i, j)."""
    x = jax.random.normal(jax.random.key(1), (1, 4, 5, 8))
    variables = with_gamma(RCCA(loops).init(jax.random.key(0), x), 1.0)
    jacobian = jax.jit(jax.jacobian(lambda image: RCCA(loops).apply(variables, image[None])[0]))(x[0])
    return np.abs(jacobian).max((2, 5)) > 0


def test_one_loop_sees_exactly_the_cross():
    y, x, i, j = np.indices((4, 5, 4, 5))
    np.testing.assert_array_equal(dependence(1), (y == i) | (x == j))


def test_two_loops_see_every_pixel():
    assert dependence(2).all()


def test_bfloat16_computes_in_bfloat16_with_float32_parameters():
    x = jax.random.normal(jax.random.key(1), (1, 4, 5, 16))
    variables = RCCA(2).init(jax.random.key(0), x)
    variables = with_gamma(variables, 0.5)
    out = RCCA(2, dtype=jnp.bfloat16).apply(variables, x)
    assert out.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    np.testing.assert_allclose(out.astype(jnp.float32), RCCA(2).apply(variables, x), atol=0.05)


@pytest.mark.parametrize("layer", [CrissCrossAttention(), RCCA(2)])
def test_without_a_dtype_the_input_decides(layer):
    x = jax.random.normal(jax.random.key(1), (1, 4, 5, 16), jnp.bfloat16)
    out, variables = layer.init_with_output(jax.random.key(0), x)
    assert out.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


def test_the_file_works_without_the_rest_of_the_project():
    code = """if True:
        import sys
        sys.modules["ccnet_jax"] = None  # importing it is an error now
        sys.path.insert(0, "ccnet_jax/models")
        import jax
        from criss_cross import RCCA
        out, _ = RCCA(2).init_with_output(jax.random.key(0), jax.numpy.ones((1, 2, 3, 8)))
        print(*out.shape)
    """
    assert fresh_python("-c", code).split() == ["1", "2", "3", "8"]


def test_rcca_without_a_loop_is_refused():
    with pytest.raises(ValueError, match="loops=0 must be at least 1"):
        RCCA(loops=0).init(jax.random.key(0), jnp.zeros((1, 4, 5, 8)))
