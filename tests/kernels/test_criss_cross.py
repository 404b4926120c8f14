import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels import criss_cross_attention, packed_criss_cross_attention
from kernels.criss_cross import IMPLEMENTATIONS, Backend, device
from kernels.criss_cross.backend import split_packed
from tests.helpers import fresh_python
from tests.kernels.criss_cross_loop import criss_cross_loop, criss_cross_loop_gradients

pytestmark = pytest.mark.slow

RUNNABLE = [name for name, backend in IMPLEMENTATIONS.items() if backend.unavailable() is None]
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


def results(implementation, query, key, value, upstream):
    """out, log-sum-exp, d query, d key, d value."""

    def attend(*arrays):
        return criss_cross_attention(*arrays, implementation=implementation, return_residuals=True)

    (out, lse), pull = jax.vjp(attend, query, key, value)
    return out, lse, *pull((upstream, jnp.zeros_like(lse)))


reference = jax.jit(functools.partial(results, "xla"))
# For interpreted kernels of real sizes, which run longer than they compile.
OPTIMIZED = {"xla_backend_optimization_level": 1}


@pytest.mark.parametrize("implementation", RUNNABLE)
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


@pytest.mark.parametrize("implementation", RUNNABLE)
@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.bfloat16, 2e-2), (jnp.float16, 3e-3)])
def test_low_precision_stays_close_to_the_loop(dtype, tolerance, implementation):
    query, key, value, upstream = inputs((2, 5, 7, 8, 16), dtype, scale=0.5)
    out, _, *gradients = jax.jit(functools.partial(results, implementation))(query, key, value, upstream)
    got = (out, *gradients)
    exact = [np.asarray(x, np.float64) for x in (query, key, value, upstream)]
    wanted = (criss_cross_loop(*exact[:3]), *criss_cross_loop_gradients(*exact))
    for array, want in zip(got, wanted, strict=True):
        assert array.dtype == dtype
        error = np.abs(np.asarray(array, np.float64) - want).max()
        assert error < tolerance * np.abs(want).max()


@pytest.mark.parametrize("implementation", RUNNABLE)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("shape", [(1, 1, 1, 8, 16), (2, 5, 7, 8, 16)], ids=str)
def test_extreme_and_constant_energies_stay_finite(shape, dtype, implementation):
    compiled = jax.jit(functools.partial(results, implementation))
    for scale in (0.0, 1e4):
        for array in compiled(*inputs(shape, dtype, scale)):
            assert bool(jnp.isfinite(array).all())


@pytest.mark.parametrize("implementation", RUNNABLE)
def test_constant_energies_average_the_cross(implementation):
    _, key, value, _ = inputs((1, 5, 7, 8, 16))
    out = criss_cross_attention(jnp.zeros_like(key), key, value, implementation=implementation)
    row, column = value.sum(2, keepdims=True), value.sum(1, keepdims=True)
    np.testing.assert_allclose(out, (row + column - value) / (5 + 7 - 1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("implementation", RUNNABLE)
def test_works_under_vmap_and_checkpoint(implementation):
    query, key, value, _ = inputs((2, 5, 7, 8, 16))
    attend = functools.partial(criss_cross_attention, implementation=implementation)
    whole = jax.jit(attend)(query, key, value)
    one = jax.jit(jax.vmap(lambda q, k, v: attend(q[None], k[None], v[None])[0]))
    np.testing.assert_allclose(one(query, key, value), whole, rtol=1e-5, atol=1e-5)

    def gradient(attend):
        return jax.jit(jax.grad(lambda q: (attend(q, key, value) ** 2).sum()))(query)

    kept, recomputed = gradient(attend), gradient(jax.checkpoint(attend))
    # sums of values up to 10 in another order: float32 rounds them by about 1e-6
    np.testing.assert_allclose(kept, recomputed, rtol=1e-5, atol=1e-5)


# Every kernel path: lines of one pixel, of one block, of several; channels that fill no block, or many.
REAL_SHAPES = [  # B, H, W, D, C
    (1, 1, 40, 8, 16),
    (1, 70, 1, 16, 2048),
    (1, 33, 65, 128, 24),
    (1, 40, 33, 64, 512),
    (1, 97, 97, 8, 72),
    (1, 65, 129, 24, 40),
    (1, 6, 9, 200, 24),
    (1, 128, 20, 8, 16),
    (1, 8, 256, 8, 16),
]


def relative_error(got, want):
    """The largest difference, as a part of the largest value."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    return np.abs(got - want).max() / max(np.abs(want).max(), 1e-30)


FLOAT32, BFLOAT16, FLOAT16 = (jnp.float32, 1e-5), (jnp.bfloat16, 2e-2), (jnp.float16, 3e-3)
REAL_CASES = [  # every path in float32; 16 bits and an Ampere GPU have other blocks, which long lines fill
    *((shape, "hopper", *FLOAT32) for shape in REAL_SHAPES),
    ((1, 8, 256, 8, 16), "hopper", *BFLOAT16),
    ((1, 40, 33, 64, 512), "hopper", *BFLOAT16),
    ((1, 65, 129, 24, 40), "ampere", *FLOAT16),
]


@pytest.mark.parametrize(("shape", "generation", "dtype", "tolerance"), REAL_CASES, ids=str)
def test_kernels_equal_the_float32_reference(shape, dtype, tolerance, generation, monkeypatch):
    monkeypatch.setattr(device, "generation", lambda: generation)
    query, key, value, upstream = inputs(shape, dtype, scale=0.5)

    options = OPTIMIZED if value.size > 100_000 else None
    kernels = jax.jit(functools.partial(results, "triton_interpret"), compiler_options=options)
    got = kernels(query, key, value, upstream)
    wanted = reference(*(x.astype(jnp.float32) for x in (query, key, value, upstream)))
    names = ("out", "log-sum-exp", "d query", "d key", "d value")
    for name, array, want in zip(names, got, wanted, strict=True):
        assert array.dtype == (jnp.float32 if name == "log-sum-exp" else dtype), name
        # a line of one pixel has one weight, 1, whose gradient is exactly 0 and rounds to noise
        if np.abs(want).max() > 1e-4:
            assert relative_error(array, want) < tolerance, name


@pytest.mark.parametrize("implementation", RUNNABLE)
def test_packed_equals_separate(implementation):
    query, key, value, upstream = inputs((2, 5, 19, 8, 24))

    @jax.jit
    def packed_results(packed):
        attend = functools.partial(
            packed_criss_cross_attention, key_channels=8, implementation=implementation
        )
        out, pull = jax.vjp(attend, packed)
        return out, pull(upstream)[0]

    out, gradient = packed_results(jnp.concatenate([query, key, value], -1))
    want, _, *wanted_gradients = reference(query, key, value, upstream)
    np.testing.assert_allclose(out, want, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(gradient, jnp.concatenate(wanted_gradients, -1), rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("implementation", RUNNABLE)
def test_log_sum_exp_is_exact_and_can_be_differentiated(implementation):
    query, key, value, _ = inputs((1, 3, 4, 8, 16))
    weight = jnp.arange(12.0).reshape(1, 3, 4)

    def attend(query, key):
        return criss_cross_attention(query, key, value, implementation=implementation, return_residuals=True)[
            1
        ]

    energy = np.einsum("yxd,ijd->yxij", query[0], key[0], dtype=np.float64)
    y, x, i, j = np.indices(energy.shape)
    wanted = np.log(np.where((y == i) | (x == j), np.exp(energy), 0).sum((2, 3)))
    np.testing.assert_allclose(jax.jit(attend)(query, key)[0], wanted, rtol=1e-5)

    def dense(query, key):
        energy = jnp.einsum("byxd,bijd->byxij", query, key, precision="highest")
        return jax.nn.logsumexp(jnp.where((y == i) | (x == j), energy, -jnp.inf), (3, 4))

    def gradients(log_sum_exp):
        return jax.jit(jax.grad(lambda *arrays: (log_sum_exp(*arrays) * weight).sum(), (0, 1)))(query, key)

    got, want = gradients(attend), gradients(dense)
    for array, other in zip(got, want, strict=True):
        np.testing.assert_allclose(array, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("implementation", RUNNABLE)
def test_works_under_scan(implementation):
    query, key, value, _ = inputs((1, 5, 7, 8, 16))

    def loops(value, unroll):
        def loop(value, _):
            return criss_cross_attention(query, key, value, implementation=implementation), None

        return (jax.lax.scan(loop, value, None, length=3, unroll=unroll)[0] ** 2).sum()

    got, want = (jax.jit(jax.value_and_grad(loops), static_argnums=1)(value, n) for n in (1, 3))
    for array, other in zip(got, want, strict=True):
        np.testing.assert_allclose(array, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("implementation", RUNNABLE)
def test_vmap_over_some_arguments_only(implementation):
    query, key, value, _ = inputs((2, 5, 7, 8, 16))
    attend = functools.partial(criss_cross_attention, implementation=implementation)
    gradient = jax.grad(lambda q: (attend(q, key, value) ** 2).sum())
    twice = jnp.stack([query, 2 * query])
    wanted = [jax.jit(gradient)(q) for q in twice]
    np.testing.assert_allclose(jax.jit(jax.vmap(gradient))(twice), jnp.stack(wanted), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("implementation", RUNNABLE)
@pytest.mark.parametrize("kind", [jax.sharding.AxisType.Auto, jax.sharding.AxisType.Explicit], ids=str)
def test_a_split_batch_stays_split(kind, implementation):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(kind,))
    over = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    query, key, value, _ = inputs((8, 5, 7, 8, 16))

    def loss(query, key, value):
        return (criss_cross_attention(query, key, value, implementation=implementation) ** 2).sum()

    gradients = jax.jit(jax.grad(loss, (0, 1, 2)))
    wanted = gradients(query, key, value)
    split = [jax.device_put(x, over) for x in (query, key, value)]
    compiled = gradients.lower(*split).compile()
    assert "all-gather" not in compiled.as_text()
    for got, want in zip(compiled(*split), wanted, strict=True):
        assert got.sharding.shard_shape(got.shape)[0] == 1
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("implementation", RUNNABLE)
def test_works_inside_shard_map(implementation):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    batch = jax.sharding.PartitionSpec("data")
    query, key, value, _ = inputs((8, 5, 7, 8, 16))
    attend = functools.partial(criss_cross_attention, implementation=implementation)
    mapped = jax.shard_map(attend, mesh=mesh, in_specs=batch, out_specs=batch, check_vma=False)
    np.testing.assert_allclose(
        jax.jit(mapped)(query, key, value), attend(query, key, value), rtol=1e-5, atol=1e-5
    )


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
def test_wrong_arguments_are_named(change, error, words, without_shape_checks):
    query, key, value, _ = inputs((2, 5, 7, 8, 16))
    with pytest.raises(error, match=words):
        criss_cross_attention(*change(query, key, value))


def test_unknown_implementation_is_refused():
    query, key, value, _ = inputs((1, 2, 2, 4, 4))
    with pytest.raises(ValueError, match="'cuda' does not exist.*xla"):
        criss_cross_attention(query, key, value, implementation="cuda")


def test_a_backend_that_this_device_lacks_is_refused_and_none_chooses_another():
    query, key, value, _ = inputs((1, 2, 2, 4, 4))
    with pytest.raises(ValueError, match="'triton' needs an NVIDIA GPU.*this is CPU.*'xla'"):
        criss_cross_attention(query, key, value, implementation="triton")
    text = jax.jit(criss_cross_attention).lower(query, key, value).as_text()
    assert text == jax.jit(functools.partial(criss_cross_attention, implementation="xla")).lower(
        query, key, value
    ).as_text().replace("partial", "criss_cross_attention")


@pytest.mark.parametrize(
    ("platform", "name", "runs", "generation"),
    [
        ("gpu", "NVIDIA H200", True, "hopper"),
        ("gpu", "NVIDIA H100 80GB HBM3", True, "hopper"),
        ("gpu", "NVIDIA GH200 480GB", True, "hopper"),
        ("gpu", "NVIDIA A100-SXM4-80GB", True, "ampere"),
        ("gpu", "NVIDIA GeForce RTX 4090", True, "ampere"),
        ("gpu", "Tesla V100-SXM2-16GB", False, "ampere"),
        ("gpu", "NVIDIA GeForce RTX 2080 Ti", False, "ampere"),
        ("gpu", "AMD Instinct MI300X", False, "ampere"),
        ("tpu", "TPU v5e", False, "ampere"),
        ("cpu", "cpu", False, "ampere"),
    ],
)
def test_devices_are_told_apart(platform, name, runs, generation, monkeypatch):
    monkeypatch.setattr(device, "kind", lambda: (platform, name))
    assert device.generation() == generation
    assert (IMPLEMENTATIONS["triton"].unavailable() is None) == runs
    assert IMPLEMENTATIONS["xla"].unavailable() is None


@pytest.mark.parametrize("key_channels", [0, 8, 20])
def test_packed_needs_channels_for_all_three(key_channels):
    with pytest.raises(ValueError, match=f"key_channels={key_channels} must"):
        packed_criss_cross_attention(jnp.zeros((1, 2, 2, 16)), key_channels)


def test_without_pallas_triton_only_that_backend_is_unavailable():
    code = """if True:
        import sys
        sys.modules["jax.experimental.pallas.triton"] = None
        import jax.numpy as jnp
        from kernels import criss_cross_attention
        from kernels.criss_cross import IMPLEMENTATIONS
        x = jnp.ones((1, 2, 3, 4))
        print(*IMPLEMENTATIONS, float(criss_cross_attention(x, x, x).mean()))
        try:
            criss_cross_attention(x, x, x, implementation="triton")
        except ValueError as error:
            print(error)
    """
    names, message = fresh_python("-c", code).splitlines()
    assert names == "triton triton_interpret xla 1.0"
    assert "'triton' needs Pallas's Triton backend" in message
    assert "can run ['xla']" in message


def test_a_backend_from_outside_is_used_by_its_name(monkeypatch):
    calls = []

    def attend(arrays, key_channels):
        calls.append((len(arrays), key_channels))
        query, _, value = split_packed(arrays, key_channels)
        return 2 * value, jnp.zeros(query.shape[:3])

    monkeypatch.setitem(IMPLEMENTATIONS, "mine", Backend(attend))
    query, key, value, _ = inputs((1, 2, 3, 4, 8))
    got = criss_cross_attention(query, key, value, implementation="mine")
    np.testing.assert_array_equal(got, 2 * value)
    packed = jnp.concatenate([query, key, value], -1)
    np.testing.assert_array_equal(packed_criss_cross_attention(packed, 4, implementation="mine"), 2 * value)
    assert calls == [(3, 4), (1, 4)]
    criss_cross_attention(query, key, value)
    assert len(calls) == 2  # the reference stands before it, so None does not choose it


def test_a_backend_from_outside_says_what_it_needs(monkeypatch):
    mine = IMPLEMENTATIONS["xla"]._replace(unavailable=lambda: "needs a quantum computer")
    monkeypatch.setitem(IMPLEMENTATIONS, "mine", mine)
    query, key, value, _ = inputs((1, 2, 2, 4, 4))
    with pytest.raises(ValueError, match="'mine' needs a quantum computer; this device can run"):
        criss_cross_attention(query, key, value, implementation="mine")
