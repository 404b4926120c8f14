import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccnet_jax import CCNet
from ccnet_jax.models.backbones import BACKBONES, Backbone, BackboneSettings
from ccnet_jax.models.backbones.resnet import BLOCKS, max_pool
from ccnet_jax.models.ccnet import ContextModule
from ccnet_jax.models.contexts import CONTEXTS, ContextSettings
from ccnet_jax.models.flavours import FLAVOURS, normalize
from tests.helpers import random_variables, with_gamma

pytestmark = pytest.mark.slow


def abstract(model, dtype=jnp.uint8):
    images = jax.ShapeDtypeStruct((1, 64, 64, 3), dtype)
    return jax.eval_shape(lambda x: model.init(jax.random.key(0), x), images)


def names_and_shapes(variables):
    """ "params/head/classifier/bias 3" for example, one line for each array."""
    leaves = jax.tree_util.tree_leaves_with_path(variables)
    return sorted(
        f"{'/'.join(part.key for part in path)} {'x'.join(map(str, leaf.shape))}".rstrip()
        for path, leaf in leaves
    )


def recorded(title):
    """A section of parameters.txt: the names and shapes in checkpoints that earlier versions wrote."""
    text = pathlib.Path(__file__).with_name("parameters.txt").read_text()
    return text.partition(f"[{title}]\n")[2].partition("\n\n")[0].splitlines()


def test_the_names_and_shapes_of_old_checkpoints_stay():
    official = CCNet(3, 10, "official", width=0.125)
    assert names_and_shapes(abstract(official)) == recorded("official 10 rcca deep")
    mmseg = CCNet(3, 50, "mmseg", "none", width=0.125, stem="7x7")
    assert names_and_shapes(abstract(mmseg)) == recorded("mmseg 50 none 7x7")


@pytest.mark.parametrize("context", ["psp", "aspp", "nonlocal"])
def test_the_names_and_shapes_of_a_context_modules_old_checkpoints_stay(context):
    lines = names_and_shapes(abstract(CCNet(3, 10, "mmseg", context, width=0.125)))
    assert [line for line in lines if "/context/" in line] == recorded(f"mmseg 10 {context} deep")


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
    params = abstract(CCNet(19, depth, flavour))["params"]
    assert sum(x.size for x in jax.tree.leaves(params)) == parameters


def feature_shapes(depth, flavour, size):
    """Of the last two stages."""
    backbone = BACKBONES["resnet"].build(BackboneSettings(depth, FLAVOURS[flavour]), None)
    images = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
    (*_, stage3, stage4), _ = jax.eval_shape(
        lambda x: backbone.init_with_output(jax.random.key(0), x, False), images
    )
    return stage3.shape, stage4.shape


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
def test_features_have_an_eighth_of_the_images_size(flavour, size, features):
    assert feature_shapes(10, flavour, size) == ((2, *features, 256), (2, *features, 512))


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("depth", BLOCKS)
def test_feature_channels(flavour, depth):
    channels = 2048 if depth >= 50 else 512
    features = {"official": (5, 5), "mmseg": (4, 5)}[flavour]
    assert feature_shapes(depth, flavour, (32, 33)) == (
        (2, *features, channels // 2),
        (2, *features, channels),
    )


class ToyBackbone(nn.Module):
    """One convolution of stride 8."""

    @nn.compact
    def __call__(self, x, train):
        x = nn.Conv(16, (8, 8), strides=8, name="patches")(x)
        return x, x


class ToyContext(nn.Module):
    """A convolution over the whole neighbourhood."""

    @nn.compact
    def __call__(self, x, train):
        return nn.Conv(x.shape[-1], (3, 3), name="conv")(x)


def test_a_backbone_and_a_context_module_are_added_by_one_line_each(monkeypatch):
    toy = Backbone(depths=(1,), build=lambda settings, name: ToyBackbone(name=name))
    monkeypatch.setitem(BACKBONES, "toy", toy)
    monkeypatch.setitem(CONTEXTS, "toy", lambda settings, name: ToyContext(name=name))
    model = CCNet(3, 1, "mmseg", "toy", width=0.125, backbone="toy")
    params = abstract(model)["params"]
    assert set(params["backbone"]) == {"patches"}
    assert set(params["head"]["context"]) == {"toy"}
    images = jax.ShapeDtypeStruct((2, 40, 48, 3), jnp.uint8)
    logits, _ = jax.eval_shape(model.apply, abstract(model), images)
    assert logits.shape == (2, 40, 48, 3)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"depth": 42}, "depth=42 does not exist; choose one of 10, 18, 34, 50, 101, 152$"),
        (
            {"flavour": "offical"},
            "flavour='offical' does not exist; .* official, mmseg; did you mean official?",
        ),
        (
            {"context": "RCCA"},
            "context='RCCA' does not exist; choose one of none, rcca, .*did you mean rcca?",
        ),
        ({"backbone": "vgg"}, "backbone='vgg' does not exist; choose one of resnet$"),
        ({"stem": "3x3"}, "stem='3x3' does not exist; choose one of deep, 7x7"),
        ({"num_classes": 0}, "num_classes must be a whole number that is at least 1, not 0"),
        ({"num_classes": True}, "num_classes must be a whole number that is at least 1, not True"),
        ({"width": "a"}, "width must be a number above 0, not 'a'"),
        ({"implementation": "cuda"}, "implementation='cuda' does not exist"),
        ({"dtype": "float16"}, "dtype='float16' does not exist; choose one of float32, bfloat16"),
        ({"loops": 0}, "loops must be a whole number that is at least 1, not 0"),
        ({"width": 0.0}, "width must be a number above 0, not 0.0"),
        ({"width": float("nan")}, "width must be a number above 0, not nan"),
    ],
)
def test_attributes_that_do_not_exist_get_a_message(attributes, message):
    with pytest.raises(ValueError, match=message):
        CCNet(**{"num_classes": 3} | attributes)


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (((64, 64, 3), "uint8"), ValueError, r"no batch axis.*pass images\[None\]"),
        (((64, 64), "uint8"), ValueError, r"RGB images \[B, H, W, 3\]"),
        (((2, 3, 64, 64), "uint8"), ValueError, r"channels last; pass images.transpose\(0, 2, 3, 1\)"),
        (((2, 64, 64, 1), "uint8"), ValueError, r"not grey ones; pass jnp.repeat\(images, 3, -1\)"),
        (((2, 64, 64, 4), "uint8"), ValueError, r"without alpha; pass images\[\.\.\., :3\]"),
        (((2, 64, 64, 7), "float32"), ValueError, r"have shape \(2, 64, 64, 7\)"),
        (((0, 64, 64, 3), "uint8"), ValueError, "are empty"),
        (((1, 0, 64, 3), "uint8"), ValueError, "are empty"),
        (((1, 64, 64, 3), "int8"), TypeError, "dtype int8"),
        (((1, 64, 64, 3), "uint16"), TypeError, "dtype uint16"),
        (((1, 64, 64, 3), "bool"), TypeError, "dtype bool"),
    ],
)
def test_arrays_that_are_no_images_get_a_message(images, error, message):
    shape, dtype = images
    model = CCNet(3, 10, "mmseg", width=0.125)
    with pytest.raises(error, match=message):
        jax.eval_shape(model.apply, abstract(model), jax.ShapeDtypeStruct(shape, dtype))
    with pytest.raises(error, match=message):
        model.apply({}, np.zeros(shape, dtype))


@pytest.mark.parametrize("dtype", ["uint8", "float32", "bfloat16"])
def test_images_are_taken_under_jit_and_vmap(dtype):
    model = CCNet(3, 10, "mmseg", width=0.125)
    variables = abstract(model, dtype=dtype)
    images = jax.ShapeDtypeStruct((4, 1, 32, 40, 3), dtype)
    call = jax.jit(jax.vmap(model.apply, (None, 0)))
    logits, _ = jax.eval_shape(call, variables, images)
    assert (logits.shape, logits.dtype) == ((4, 1, 32, 40, 3), jnp.float32)


def all_finite(tree):
    return all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(tree))


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_full_size_finite_logits_and_gradients(flavour):
    model = CCNet(5, 10, flavour, width=0.125)
    images = jax.random.randint(jax.random.key(0), (2, 32, 45, 3), 0, 256).astype(jnp.uint8)
    variables = random_variables(model)

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

    assert all_finite(gradient(variables["params"]))
    logits, auxiliary = jax.eval_shape(model.apply, variables, images)
    assert auxiliary is None
    assert (logits.shape, logits.dtype) == ((2, 32, 45, 5), jnp.float32)


@pytest.mark.parametrize(
    ("context", "align_corners"), [*((context, False) for context in CONTEXTS), ("psp", True)]
)
def test_every_context_module_gives_finite_features_and_gradients(context, align_corners):
    module = ContextModule(context, ContextSettings(align_corners=align_corners, negative_slope=0.01))
    x = jax.random.normal(jax.random.key(0), (2, 7, 9, 16))
    variables = with_gamma(jax.jit(module.init, static_argnums=2)(jax.random.key(1), x, True), 0.5)

    @jax.jit
    def output_and_gradients(params, x):
        def loss(params, x):
            out, _ = module.apply({**variables, "params": params}, x, True, mutable=["batch_stats"])
            return (out**2).mean(), out

        return jax.grad(loss, (0, 1), has_aux=True)(params, x)

    gradients, out = output_and_gradients(variables.get("params", {}), x)
    assert out.shape == x.shape
    assert all_finite((gradients, out))
    assert bool(gradients[1].any())


@pytest.mark.parametrize("size", [(32, 32), (33, 40), (47, 32), (64, 96)])
def test_any_size_from_32_works(size):
    model = CCNet(3, 10, "official", width=0.125)
    variables = abstract(model)
    images = jax.ShapeDtypeStruct((1, *size, 3), jnp.uint8)
    logits, _ = jax.eval_shape(model.apply, variables, images)
    assert logits.shape == (1, *size, 3)


def test_bfloat16_keeps_float32_parameters_statistics_and_logits():
    model = CCNet(3, 10, "mmseg", width=0.125, dtype=jnp.bfloat16)
    images = jax.random.randint(jax.random.key(0), (2, 32, 32, 3), 0, 256).astype(jnp.uint8)
    variables = random_variables(model)
    (logits, _), updated = jax.eval_shape(
        lambda: model.apply(
            variables, images, train=True, rngs={"dropout": jax.random.key(1)}, mutable=["batch_stats"]
        )
    )
    assert logits.dtype == jnp.float32
    assert {x.dtype for x in jax.tree.leaves((abstract(model), updated))} == {jnp.dtype("float32")}
    full, _ = jax.jit(CCNet(3, 10, "mmseg", width=0.125).apply)(variables, images)
    low, _ = jax.jit(model.apply)(variables, images)
    assert float(jnp.abs(low - full).mean()) < 0.1 * float(jnp.abs(full).mean())
    assert bool((low != full).any())  # it did compute in bfloat16


@pytest.mark.parametrize("remat", ["norms", "blocks"])
def test_remat_changes_nothing_but_memory(remat):
    images = jax.random.randint(jax.random.key(0), (2, 32, 32, 3), 0, 256).astype(jnp.uint8)
    kept, recomputed = (CCNet(3, 10, "mmseg", width=0.125, remat=how) for how in ("none", remat))
    variables = random_variables(kept)

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


@pytest.mark.parametrize("ceil", [False, True])
@pytest.mark.parametrize("size", [(8, 9), (7, 12), (1, 2), (33, 20)])
def test_the_max_pools_gradient_is_that_of_flax_also_where_pixels_are_equal(size, ceil):
    rng = np.random.default_rng(0)
    # most windows have several largest pixels
    x = jnp.asarray(rng.integers(0, 3, (2, *size, 4)), jnp.float32)
    padding = [(1, 1 + (ceil and side % 2 == 0)) for side in size]
    shape = jax.eval_shape(lambda x: max_pool(x, ceil), x).shape
    upstream = jnp.asarray(rng.normal(size=shape), jnp.float32)

    @jax.jit
    def pooled_and_gradients(x):
        out, pull = jax.vjp(lambda x: max_pool(x, ceil), x)
        wanted, wanted_pull = jax.vjp(lambda x: nn.max_pool(x, (3, 3), (2, 2), padding), x)
        low = jax.grad(lambda x: max_pool(x, ceil).astype(jnp.float32).sum())(x.astype(jnp.bfloat16))
        return out, wanted, pull(upstream)[0], wanted_pull(upstream)[0], low

    out, wanted, gradient, wanted_gradient, low = pooled_and_gradients(x)
    np.testing.assert_array_equal(out, wanted)
    np.testing.assert_allclose(gradient, wanted_gradient, atol=1e-6)
    assert low.dtype == jnp.bfloat16
