import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccnet_jax.models.detection.heads import TransposedConv
from ccnet_jax.models.detection.mask_rcnn import MaskRCNN

pytestmark = pytest.mark.slow

OF_RESNET101 = 71_287_911 - 52_295_783  # what it has more than ResNet-50, as CCNet's backbone


@pytest.mark.parametrize(("depth", "more"), [(50, 0), (101, OF_RESNET101)])
def test_parameter_counts(depth, more):
    """torchvision's maskrcnn_resnet50_fpn with 91 labels has 44,401,393.

    Its frozen norms are not among them; and it has boxes and masks of background.
    """
    network = MaskRCNN(90, depth)
    images = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.uint8)
    params = jax.eval_shape(lambda x: network.init(jax.random.key(0), x), images)["params"]
    norms, background = 53_120, 4 * (1024 + 1) + (256 + 1)
    assert sum(x.size for x in jax.tree.leaves(params)) == 44_401_393 + norms - background + more


def test_the_transposed_convolution_is_flax_s():
    x, layer = jax.random.normal(jax.random.key(0), (2, 3, 5, 4)), TransposedConv(6)
    variables = layer.init(jax.random.key(1), x)
    variables["params"]["bias"] += jnp.arange(6.0)
    expected = nn.ConvTranspose(6, (2, 2), (2, 2)).apply(variables, x)
    np.testing.assert_allclose(layer.apply(variables, x).reshape(2, 6, 10, 6), expected, rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def network():
    return MaskRCNN(3, 10, "rcca", width=0.125, anchor_scale=2.0)


@pytest.fixture(scope="module")
def variables(network):
    start = jax.jit(network.init)(jax.random.key(0), jnp.zeros((1, 64, 64, 3), jnp.uint8))
    start["params"]["context_module"]["rcca"]["attention"]["gamma"] = jnp.ones(())
    return start


@pytest.fixture(scope="module")
def detect(network):
    return jax.jit(
        lambda variables, images, size: network.apply(variables, images, size, 50, 40, 0.0, 0.5, 10)
    )


IMAGES = np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3), np.uint8)


def test_detections_lie_in_their_images(detect, variables):
    size = jnp.array([[64, 96], [40, 50]])
    found = detect(variables, IMAGES, size)
    assert found.boxes.shape == (2, 10, 4)
    assert found.masks.shape == (2, 10, 28, 28)
    assert found.used.all()  # any probability will do
    assert (found.boxes >= 0).all()
    assert (found.boxes[..., 2:] <= size[:, None, ::-1]).all()
    assert (found.scores[:, :-1] >= found.scores[:, 1:]).all()
    assert set(np.unique(found.classes)) <= {0, 1, 2}
    assert ((found.masks > 0) & (found.masks < 1)).all()


def test_an_image_is_found_the_same_on_a_larger_canvas(detect, variables):
    """What lies beyond an image's edge does not matter, whatever it is."""
    noise = IMAGES.copy()
    noise[1, 40:] = 255
    noise[1, :, 50:] = 0
    size = jnp.array([[64, 96], [40, 50]])
    one, other = detect(variables, IMAGES, size), detect(variables, noise, size)
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_images_do_not_depend_on_one_another(detect, variables):
    size = jnp.array([[64, 96], [64, 96]])
    both, turned = detect(variables, IMAGES, size), detect(variables, IMAGES[::-1], size)
    for one, other in zip(both, turned, strict=True):
        np.testing.assert_allclose(one, other[::-1], atol=1e-3)


def test_the_context_module_stands_before_the_last_block_of_stage_3(network, variables):
    """Stages 1 and 2 do not depend on it."""
    images, size = jnp.asarray(IMAGES[:1]), jnp.array([[64, 96]])

    @jax.jit
    def stages(variables):
        _, captured = network.apply(
            variables,
            images,
            size,
            method="pyramid",
            capture_intermediates=lambda module, _: module.name in ("backbone", "layer3_0"),
            mutable=["intermediates"],
        )
        return captured["intermediates"]["backbone"]["__call__"][0]

    without = jax.tree.map(lambda x: x, variables)
    without["params"]["context_module"]["rcca"]["attention"]["gamma"] = jnp.zeros(())
    for stage, (one, other) in enumerate(zip(stages(variables), stages(without), strict=True), 1):
        assert (stage < 3) == bool((one == other).all()), stage


def test_a_frozen_backbone_keeps_statistics_stem_and_stage_1():
    network = MaskRCNN(3, 10, width=0.125, frozen=True)
    images, size = jnp.asarray(IMAGES[:1]), jnp.array([[64, 96]])
    variables = jax.jit(network.init)(jax.random.key(0), images)

    def total(params):
        levels, updated = network.apply(
            {**variables, "params": params}, images, size, True, method="pyramid", mutable=["batch_stats"]
        )
        return sum((level**2).sum() for level in levels), updated

    gradients, updated = jax.jit(jax.grad(total, has_aux=True))(variables["params"])
    jax.tree.map(np.testing.assert_array_equal, updated["batch_stats"], variables["batch_stats"])
    moved = {name: any(jnp.any(x) for x in jax.tree.leaves(of)) for name, of in gradients["backbone"].items()}
    assert moved == {name: not name.startswith(("stem", "layer1")) for name in moved}
    assert {"stem_conv1", "layer1_0", "layer2_0", "layer4_0"} <= set(moved)
