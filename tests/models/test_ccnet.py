import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ccnet_jax.models.context import CONTEXTS

from ccnet_jax import CCNet
from ccnet_jax.models.backbones.resnet import BLOCKS, ResNet, max_pool
from ccnet_jax.models.ccnet import FLAVOURS, normalize
from ccnet_jax.models.layers import resize_bilinear
from tests.helpers import with_gamma


def abstract(model, size):
    images = jax.ShapeDtypeStruct((1, *size, 3), jnp.uint8)
    return jax.eval_shape(lambda x: model.init(jax.random.key(0), x), images)


@pytest.mark.parametrize(
    ("flavour", "depth", "parameters"),
    [
        ("official", 50, 52_295_783),  # counted on the authors' network
        ("official", 101, 71_287_911),
        ("mmseg", 50, 49_826_055),
        ("mmseg", 101, 68_818_183),
    ],
)
def test_parameter_counts(flavour, depth, parameters):
    params = abstract(CCNet(19, depth, flavour), (64, 64))["params"]
    assert sum(x.size for x in jax.tree.leaves(params)) == parameters


@pytest.mark.parametrize("depth", BLOCKS)
@pytest.mark.parametrize(
    ("flavour", "size", "features"),
    [
        ("official", (769, 769), (97, 97)),
        ("mmseg", (769, 769), (97, 97)),
        ("official", (512, 512), (65, 65)),
        ("mmseg", (512, 512), (64, 64)),
        ("mmseg", (512, 1024), (64, 128)),
        ("official", (32, 33), (5, 5)),
        ("mmseg", (32, 33), (4, 5)),
    ],
)
def test_feature_shapes(flavour, size, features, depth):
    settings = FLAVOURS[flavour]
    backbone = ResNet(depth, settings.stem_channels, settings.ceil_pool, settings.contract_dilation)
    images = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
    (stage3, stage4), _ = jax.eval_shape(
        lambda x: backbone.init_with_output(jax.random.key(0), x, False), images
    )
    channels = 2048 if depth >= 50 else 512
    assert stage3.shape == (2, *features, channels // 2)
    assert stage4.shape == (2, *features, channels)


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("context", CONTEXTS)
def test_every_context_gives_full_size_finite_logits_and_gradients(context, flavour):
    model = CCNet(5, 10, flavour, context, width=0.125)
    images = jax.random.randint(jax.random.key(0), (2, 32, 45, 3), 0, 256).astype(jnp.uint8)
    variables = with_gamma(jax.jit(model.init)(jax.random.key(0), images), 0.5)

    @jax.jit
    def gradient(params):
        def loss(params):
            (logits, auxiliary), updated = model.apply(
                {**variables, "params": params},
                images,
                train=True,
                rngs={"dropout": jax.random.key(1)},
                mutable=["batch_stats"],
            )
            assert logits.shape == auxiliary.shape == (2, 32, 45, 5)
            return (logits**2).mean() + (auxiliary**2).mean(), updated

        return jax.grad(loss, has_aux=True)(params)

    gradients, updated = gradient(variables["params"])
    assert all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves((gradients, updated)))
    logits, auxiliary = jax.jit(model.apply)(variables, images)
    assert auxiliary is None
    assert logits.shape == (2, 32, 45, 5)
    assert logits.dtype == jnp.float32


@pytest.mark.parametrize("size", [(32, 32), (33, 40), (47, 32), (64, 96)])
def test_any_size_from_32_works(size):
    model = CCNet(3, 10, "official", width=0.125)
    variables = abstract(model, (64, 64))
    images = jax.ShapeDtypeStruct((1, *size, 3), jnp.uint8)
    logits, _ = jax.eval_shape(model.apply, variables, images)
    assert logits.shape == (1, *size, 3)


def test_bfloat16_keeps_float32_parameters_statistics_and_logits():
    model = CCNet(3, 10, "mmseg", width=0.125, dtype=jnp.bfloat16)
    images = jax.random.randint(jax.random.key(0), (2, 32, 32, 3), 0, 256).astype(jnp.uint8)
    variables = with_gamma(jax.jit(model.init)(jax.random.key(0), images), 0.5)
    (logits, _), updated = model.apply(
        variables, images, train=True, rngs={"dropout": jax.random.key(1)}, mutable=["batch_stats"]
    )
    assert logits.dtype == jnp.float32
    assert {x.dtype for x in jax.tree.leaves((variables, updated))} == {jnp.dtype("float32")}
    full = CCNet(3, 10, "mmseg", width=0.125).apply(variables, images)[0]
    low, _ = model.apply(variables, images)
    assert float(jnp.abs(low - full).max()) < 0.05 * float(jnp.abs(full).max()) + 0.05
    assert bool((low != full).any())  # it did compute in bfloat16


def test_remat_changes_nothing_but_memory():
    images = jax.random.randint(jax.random.key(0), (2, 32, 32, 3), 0, 256).astype(jnp.uint8)
    kept, recomputed = (CCNet(3, 10, "mmseg", width=0.125, remat=remat) for remat in (False, True))
    variables = with_gamma(jax.jit(kept.init)(jax.random.key(0), images), 0.5)

    def gradient(model):
        def loss(params):
            (logits, _), _ = model.apply(
                {**variables, "params": params},
                images,
                train=True,
                rngs={"dropout": jax.random.key(1)},
                mutable=["batch_stats"],
            )
            return (logits**2).mean()

        return jax.jit(jax.grad(loss))(variables["params"])

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        gradient(kept),
        gradient(recomputed),
    )


def test_flavours_normalize_as_their_code_bases():
    pixel = np.array([[[[10, 20, 30]]]], np.uint8)
    np.testing.assert_allclose(
        normalize(pixel, FLAVOURS["official"])[0, 0, 0],
        [30 - 104.00698793, 20 - 116.66876762, 10 - 122.67891434],
        rtol=1e-5,
    )
    np.testing.assert_allclose(
        normalize(pixel, FLAVOURS["mmseg"])[0, 0, 0],
        [(10 - 123.675) / 58.395, (20 - 116.28) / 57.12, (30 - 103.53) / 57.375],
        rtol=1e-5,
    )


@pytest.mark.parametrize(
    ("side", "floor", "ceil"), [(385, 193, 193), (256, 128, 129), (16, 8, 9), (17, 9, 9)]
)
def test_max_pool_rounds_as_asked(side, floor, ceil):
    x = jax.random.normal(jax.random.key(0), (1, side, side, 1)) - 10  # negative: padding must not win
    for mode, wanted in ((False, floor), (True, ceil)):
        pooled = max_pool(x, mode)
        assert pooled.shape == (1, wanted, wanted, 1)
        padded = np.pad(np.asarray(x[0, :, :, 0]), ((1, 2), (1, 2)), constant_values=-np.inf)
        windows = [
            [padded[2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max() for j in range(wanted)] for i in range(wanted)
        ]
        np.testing.assert_array_equal(pooled[0, :, :, 0], windows)


def bilinear_by_hand(x, height, width, align_corners):
    """Reads input coordinate by coordinate as PyTorch documents `interpolate`."""
    out = np.zeros((height, width))
    rows, columns = x.shape
    for i in range(height):
        for j in range(width):
            where = []
            for at, side, size in ((i, rows, height), (j, columns, width)):
                if align_corners:
                    position = at * (side - 1) / (size - 1) if size > 1 else 0.0
                else:
                    position = max((at + 0.5) * side / size - 0.5, 0.0)
                low = min(int(position), side - 1)
                where.append((low, min(low + 1, side - 1), position - low))
            (y0, y1, v), (x0, x1, u) = where
            top, bottom = (1 - u) * x[y0, x0] + u * x[y0, x1], (1 - u) * x[y1, x0] + u * x[y1, x1]
            out[i, j] = (1 - v) * top + v * bottom
    return out


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(
    ("small", "large"), [((5, 7), (33, 50)), ((4, 4), (32, 32)), ((1, 3), (8, 9)), ((3, 1), (5, 6))]
)
def test_bilinear_resizing_equals_the_formula(small, large, align_corners):
    x = np.random.default_rng(0).standard_normal(small).astype(np.float32)
    got = resize_bilinear(jnp.asarray(x)[None, :, :, None], large, align_corners)[0, :, :, 0]
    np.testing.assert_allclose(got, bilinear_by_hand(x, *large, align_corners), rtol=1e-4, atol=1e-5)
