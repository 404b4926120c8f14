import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccnet_jax.models.resize import resize_bilinear
from ccnet_jax.training import upsampled
from ccnet_jax.training.losses import AVERAGES, LOSSES, LossConfig, cross_entropy, ohem_cross_entropy
from ccnet_jax.training.upsampled import UpsampledLogits

pytestmark = pytest.mark.slow

CLASSES = 5
WEIGHTS = (0.5, 2.0, 0.0, 1.0, 3.0)


def sample(shape=(2, 9, 11), seed=0):
    """Logits and labels, a fifth of which are void."""
    rng = np.random.default_rng(seed)
    logits = rng.standard_normal((*shape, CLASSES)).astype(np.float32) * 3
    labels = rng.integers(0, CLASSES, shape).astype(np.uint8)
    labels[rng.random(shape) < 0.2] = 255
    return jnp.asarray(logits), jnp.asarray(labels)


def log_probabilities(logits, labels):
    """log p of all classes [pixels, classes] in float64, and the labels [pixels], of the valid pixels."""
    logits, labels = np.asarray(logits, np.float64), np.asarray(labels)
    valid = labels != 255
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return log_p[valid], labels[valid].astype(int)


def pytorchs_mean(log_p, labels, weights=None, smoothing=0.0):
    """CrossEntropyLoss(weight, label_smoothing) by PyTorch's documentation, pixel by pixel."""
    weights = np.ones(CLASSES) if weights is None else np.array(weights)
    total = 0.0
    for pixel, label in zip(log_p, labels, strict=True):
        target = np.full(CLASSES, smoothing / CLASSES)
        target[label] += 1 - smoothing
        total -= (weights * target * pixel).sum()
    return total / weights[labels].sum()


def hardest(log_p, labels, threshold, kept):
    """The pixels that are at most as probable as the threshold, and at least the `kept` least probable."""
    log_p_true = log_p[np.arange(len(labels)), labels]
    order = np.argsort(log_p_true)
    count = max((np.exp(log_p_true) <= threshold).sum(), min(kept, len(labels)))
    return log_p[order[:count]], labels[order[:count]]


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.6])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_cross_entropy_is_pytorchs_mean_over_valid_pixels(weights, smoothing):
    logits, labels = sample()
    np.testing.assert_allclose(
        cross_entropy(UpsampledLogits(logits), labels, weights, smoothing).value,
        pytorchs_mean(*log_probabilities(logits, labels), weights, smoothing),
        rtol=1e-5,
    )


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_cross_entropy_gradient_is_softmax_minus_one_hot_and_zero_on_void(weights):
    logits, labels = sample()
    gradient = jax.grad(lambda logits: cross_entropy(UpsampledLogits(logits), labels, weights).value)(logits)
    gradient = np.asarray(gradient, np.float64)
    valid = np.asarray(labels != 255)
    softmax = np.exp(np.asarray(logits, np.float64))
    softmax /= softmax.sum(-1, keepdims=True)
    pixel_weights = np.array(weights or np.ones(CLASSES))[np.where(valid, labels, 0)] * valid
    wanted = (softmax - np.eye(CLASSES)[np.where(valid, labels, 0)]) * pixel_weights[..., None]
    np.testing.assert_allclose(gradient, wanted / pixel_weights.sum(), atol=1e-7)


NOTHING = {
    "void": ({}, 255),
    "void, smoothed": ({"label_smoothing": 0.3}, 255),
    "a class without weight": ({"class_weights": WEIGHTS}, WEIGHTS.index(0.0)),
    "a class without weight, smoothed": (
        {"class_weights": WEIGHTS, "label_smoothing": 0.3},
        WEIGHTS.index(0.0),
    ),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("average_over", AVERAGES)
@pytest.mark.parametrize("nothing", NOTHING)
def test_a_mean_over_nothing_is_0_without_gradient(name, average_over, nothing):
    logits, labels = sample()
    settings, label = NOTHING[nothing]
    loss = LOSSES[name](LossConfig(name=name, average_over=average_over, **settings))

    def value(logits):
        return loss(UpsampledLogits(logits), jnp.full_like(labels, label)).value

    found, gradient = jax.value_and_grad(value)(logits)
    assert float(found) == 0
    assert not gradient.any()


def test_the_hard_pixels_of_an_impossible_choice_are_none():
    """No pixel is that improbable, and none has to be kept."""
    logits, labels = sample()
    assert float(ohem_cross_entropy(UpsampledLogits(logits), labels, threshold=0.0, min_kept=0).value) == 0


@pytest.mark.parametrize("threshold", [0.01, 0.3, 0.7])
@pytest.mark.parametrize("min_kept", [1, 30, 70, 10_000])
@pytest.mark.parametrize(("weights", "smoothing"), [(None, 0.0), (WEIGHTS, 0.0), (WEIGHTS, 0.2)])
def test_ohem_is_the_mean_over_the_hard_pixels(threshold, min_kept, weights, smoothing):
    logits, labels = sample()
    got = ohem_cross_entropy(UpsampledLogits(logits), labels, threshold, min_kept, weights, smoothing).value
    hard = hardest(*log_probabilities(logits, labels), threshold, 2 * min_kept)
    np.testing.assert_allclose(got, pytorchs_mean(*hard, weights, smoothing), rtol=1e-5)


def primitives(jaxpr):
    """The names of a program's operations, those inside of others too."""
    inner = jax.tree.leaves([eqn.params for eqn in jaxpr.eqns], is_leaf=lambda x: hasattr(x, "eqns"))
    inner = [getattr(x, "jaxpr", x) for x in inner]
    names = {eqn.primitive.name for eqn in jaxpr.eqns}
    return names.union(*(primitives(x) for x in inner if hasattr(x, "eqns")))


def after_a_convolution(kernel, images, labels):
    logits = jax.lax.conv_general_dilated(
        images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return ohem_cross_entropy(UpsampledLogits(jax.nn.relu(logits) * 3), labels, threshold=0.0, min_kept=1)


@pytest.mark.parametrize("enlarged", [1, 4])
def test_as_many_pixels_are_kept_in_a_compiled_chain(enlarged):
    """One for each image, and those that are as improbable: edges of enlarged logits repeat a pixel."""

    @jax.jit
    def kept(kernels):
        return jax.lax.map(lambda kernel: after_a_convolution(kernel, images, labels).divisor, kernels)

    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.standard_normal((2, 9, 13, 4)), jnp.float32)
    labels = jnp.asarray(rng.integers(0, CLASSES, (2, 9 * enlarged, 13 * enlarged)).astype(np.uint8))
    kernels = jnp.asarray(rng.standard_normal((50, 3, 3, 4, CLASSES)), jnp.float32)
    found = np.asarray(kept(kernels))
    assert ((found >= 2) & (found <= 2 * enlarged)).all()


def test_the_probabilities_that_are_compared_are_those_that_are_sorted():
    """Both are the operand of one conditional, in which no probability is computed."""
    arguments = jnp.zeros((3, 3, 4, CLASSES)), jnp.zeros((2, 9, 13, 4)), jnp.zeros((2, 9, 13), jnp.uint8)
    program = jax.make_jaxpr(after_a_convolution)(*arguments).jaxpr
    (choice,) = [eqn for eqn in program.eqns if eqn.primitive.name == "cond"]
    within = set().union(*(primitives(branch.jaxpr) for branch in choice.params["branches"]))
    assert {"sort", "le"} <= within
    assert not {"exp", "log", "mul", "conv_general_dilated"} & within
    outside = [eqn for eqn in program.eqns if eqn is not choice]
    assert "sort" not in set().union(*(primitives(program.replace(eqns=[eqn])) for eqn in outside))


def test_ohem_differs_from_plain_cross_entropy_where_pixels_are_easy():
    logits, labels = sample()
    hard = ohem_cross_entropy(UpsampledLogits(logits), labels, 0.3, 1)
    assert float(hard.value) > float(cross_entropy(UpsampledLogits(logits), labels).value)


def cross_entropy_of_earlier_versions(logits, labels):
    valid = labels != 255
    one_hot = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    losses = jnp.where(valid, jax.nn.logsumexp(logits, -1) - (logits * one_hot).sum(-1), 0)
    return losses.sum() / jnp.maximum(valid.sum(), 1)


def ohem_of_earlier_versions(logits, labels, threshold=0.7, min_kept=20):
    valid = labels != 255
    one_hot = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    losses = jnp.where(valid, jax.nn.logsumexp(logits, -1) - (logits * one_hot).sum(-1), 0)
    probability = jax.lax.stop_gradient(jnp.where(valid, jnp.exp(-losses), jnp.inf))
    kept = jnp.minimum(min_kept * labels.shape[0], valid.sum())
    hardest = jnp.sort(probability.ravel())[jnp.maximum(kept, 1) - 1]
    hard = valid & (probability <= jnp.maximum(threshold, hardest))
    return (losses * hard).sum() / jnp.maximum(hard.sum(), 1)


@pytest.mark.parametrize(
    ("name", "earlier"),
    [("cross_entropy", cross_entropy_of_earlier_versions), ("ohem", ohem_of_earlier_versions)],
)
def test_without_weights_and_smoothing_the_bits_are_those_of_earlier_versions(name, earlier):
    logits, labels = sample()
    loss = LOSSES[name](LossConfig(name=name, ohem_min_kept=20))
    now = jax.jit(jax.value_and_grad(lambda logits: loss(UpsampledLogits(logits), labels).value))(logits)
    before = jax.jit(jax.value_and_grad(lambda logits: earlier(logits, labels)))(logits)
    jax.tree.map(np.testing.assert_array_equal, now, before)


SETTINGS = {"class_weights": WEIGHTS, "label_smoothing": 0.1, "ohem_threshold": 0.3, "ohem_min_kept": 40}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("settings", [{"ohem_min_kept": 40}, SETTINGS])
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(
    ("small", "size", "rows"), [((4, 3), (29, 17), 4), ((5, 6), (33, 41), 40), ((1, 2), (7, 9), 1)]
)
def test_upsampling_in_blocks_changes_neither_loss_nor_gradient(
    name, settings, align_corners, small, size, rows, monkeypatch
):
    monkeypatch.setattr(upsampled, "BLOCK_BYTES", rows * size[1] * CLASSES * 4)
    logits, _ = sample((2, *small))
    _, labels = sample((2, *size))
    loss = LOSSES[name](LossConfig(name=name, **settings))

    def at_full_size(logits):
        return loss(UpsampledLogits(resize_bilinear(logits, size, align_corners)), labels).value

    def in_blocks(logits):
        return loss(UpsampledLogits(logits, align_corners), labels).value

    (value, gradient), (wanted, wanted_gradient) = (
        jax.jit(jax.value_and_grad(f))(logits) for f in (in_blocks, at_full_size)
    )
    np.testing.assert_allclose(value, wanted, rtol=2e-6)
    np.testing.assert_allclose(
        gradient, wanted_gradient, atol=1e-6 * float(abs(wanted_gradient).max()) + 1e-8
    )


@pytest.mark.parametrize("name", LOSSES)
def test_logits_of_all_classes_are_never_held_at_full_size(name, monkeypatch):
    monkeypatch.setattr(upsampled, "BLOCK_BYTES", 2**16)
    loss = LOSSES[name](LossConfig(name=name, class_weights=(1.0,) * 150))

    def of_small(logits, labels):
        return loss(UpsampledLogits(logits), labels).value

    logits, labels = jnp.zeros((2, 16, 16, 150)), jnp.zeros((2, 128, 128), jnp.uint8)
    compiled = jax.jit(jax.value_and_grad(of_small)).lower(logits, labels).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 2 * 128 * 128 * 150 * 4 / 4


def test_the_settings_reach_the_loss():
    logits, labels = sample()
    config = LossConfig(class_weights=WEIGHTS, label_smoothing=0.3, ohem_threshold=0.2, ohem_min_kept=7)
    assert LOSSES["cross_entropy"](config)(UpsampledLogits(logits), labels) == cross_entropy(
        UpsampledLogits(logits), labels, WEIGHTS, 0.3
    )
    wanted = ohem_cross_entropy(UpsampledLogits(logits), labels, 0.2, 7, WEIGHTS, 0.3)
    assert LOSSES["ohem"](config)(UpsampledLogits(logits), labels) == wanted


def test_class_weights_that_cannot_be_used_get_a_message():
    assert LossConfig().problems() == LossConfig().problems_for(19) == []
    config = LossConfig(class_weights=WEIGHTS)
    assert config.problems() == config.problems_for(CLASSES) == []
    assert config.problems_for(19) == [
        "config.loss.class_weights has 5 numbers, but the data set has 19 classes; give one number for each "
        "class, or None"
    ]
    assert "are all 0" in LossConfig(class_weights=(0.0, 0.0)).problems()[0]
