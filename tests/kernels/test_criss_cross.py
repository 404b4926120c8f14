import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels import criss_cross_attention
from kernels.criss_cross import IMPLEMENTATIONS
from tests.kernels.criss_cross_loop import criss_cross_loop, criss_cross_loop_gradients

SHAPES = [  # B, H, W, D, C
    (1, 1, 1, 8, 16),
    (2, 1, 9, 4, 8),
    (1, 7, 1, 3, 5),
    (2, 5, 7, 8, 16),
    (1, 6, 6, 1, 3),
    (1, 13, 17, 16, 24),
]


def inputs(shape, dtype=jnp.float32, scale=1.0):
    b, h, w, d, c = shape
    rng = np.random.default_rng(h * 100 + w)
    sizes = [(b, h, w, d), (b, h, w, d), (b, h, w, c), (b, h, w, c)]
    query, key, value, upstream = (jnp.asarray(rng.standard_normal(s), dtype) for s in sizes)
    return query * scale, key, value, upstream


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_forward_and_gradients_equal_the_float64_loop(shape, implementation):
    query, key, value, upstream = inputs(shape)

    def attend(q, k, v):
        return criss_cross_attention(q, k, v, implementation=implementation)

    out, pull = jax.vjp(jax.jit(attend), query, key, value)
    np.testing.assert_allclose(out, criss_cross_loop(query, key, value), rtol=1e-5, atol=1e-5)
    wanted = criss_cross_loop_gradients(query, key, value, upstream)
    for got, want in zip(pull(upstream), wanted, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.bfloat16, 2e-2), (jnp.float16, 3e-3)])
def test_low_precision_stays_close_to_the_loop(dtype, tolerance, implementation):
    query, key, value, upstream = inputs((2, 5, 7, 8, 16), dtype, scale=0.5)

    def attend(q, k, v):
        return criss_cross_attention(q, k, v, implementation=implementation)

    out, pull = jax.vjp(attend, query, key, value)
    got = (out, *pull(upstream))
    exact = [np.asarray(x, np.float64) for x in (query, key, value, upstream)]
    wanted = (criss_cross_loop(*exact[:3]), *criss_cross_loop_gradients(*exact))
    for array, want in zip(got, wanted, strict=True):
        assert array.dtype == dtype
        error = np.abs(np.asarray(array, np.float64) - want).max()
        assert error < tolerance * np.abs(want).max()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("scale", [0.0, 1e4], ids=["constant", "extreme"])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("shape", [(1, 1, 1, 8, 16), (1, 5, 1, 8, 16), (2, 5, 7, 8, 16)], ids=str)
def test_extreme_and_constant_energies_stay_finite(shape, dtype, scale, implementation):
    query, key, value, upstream = inputs(shape, dtype, scale)

    def total(q, k, v):
        return (criss_cross_attention(q, k, v, implementation=implementation) * upstream).sum()

    out = criss_cross_attention(query, key, value, implementation=implementation)
    for array in (out, *jax.grad(total, (0, 1, 2))(query, key, value)):
        assert bool(jnp.isfinite(array).all())


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_constant_energies_average_the_cross(implementation):
    _, key, value, _ = inputs((1, 5, 7, 8, 16))
    out = criss_cross_attention(jnp.zeros_like(key), key, value, implementation=implementation)
    row, column = value.sum(2, keepdims=True), value.sum(1, keepdims=True)
    np.testing.assert_allclose(out, (row + column - value) / (5 + 7 - 1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_works_under_vmap_and_checkpoint(implementation):
    query, key, value, _ = inputs((2, 5, 7, 8, 16))
    attend = functools.partial(criss_cross_attention, implementation=implementation)
    whole = attend(query, key, value)
    one = jax.vmap(lambda q, k, v: attend(q[None], k[None], v[None])[0])
    np.testing.assert_allclose(one(query, key, value), whole, rtol=1e-5, atol=1e-5)

    def gradient(attend):
        return jax.grad(lambda q: (attend(q, key, value) ** 2).sum())(query)

    kept, recomputed = gradient(attend), gradient(jax.checkpoint(attend))
    # sums of values up to 10 in another order: float32 rounds them by about 1e-6
    np.testing.assert_allclose(kept, recomputed, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda q, k, v: (q[0], k, v), ValueError, "query must be"),
        (lambda q, k, v: (q, k, v[..., 0]), ValueError, "value must be"),
        (lambda q, k, v: (q, k[:, :-1], v), ValueError, "key has shape"),
        (lambda q, k, v: (q, k, v[:, :, :-1]), ValueError, "value has shape"),
        (lambda q, k, v: (q, k.astype(jnp.bfloat16), v), TypeError, "key is bfloat16"),
        (lambda q, k, v: (q.astype(jnp.int32), k, v), TypeError, "query must be float32"),
        (lambda q, k, v: (q[:, :0], k[:, :0], v[:, :0]), ValueError, "query is empty"),
    ],
)
def test_wrong_arguments_are_named(change, error, words):
    query, key, value, _ = inputs((2, 5, 7, 8, 16))
    with pytest.raises(error, match=words):
        criss_cross_attention(*change(query, key, value))


def test_unknown_implementation_is_refused():
    query, key, value, _ = inputs((1, 2, 2, 4, 4))
    with pytest.raises(ValueError, match="'cuda' does not exist.*xla"):
        criss_cross_attention(query, key, value, implementation="cuda")
