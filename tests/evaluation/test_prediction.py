"""Every test mode against a loop written by hand in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccnet_jax import CCNet
from ccnet_jax.common import devices
from ccnet_jax.common.labels import VOID
from ccnet_jax.data.datasets.streets import Streets
from ccnet_jax.evaluation import prediction
from ccnet_jax.evaluation.prediction import predictor, scorer
from ccnet_jax.evaluation.test_mode import TestMode
from ccnet_jax.models.resize import resize_bilinear, upsampling_matrices

pytestmark = pytest.mark.slow


def network():
    model = CCNet(3, 10, "official", width=0.125)
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    strong = jax.tree_util.tree_map_with_path(  # predictions that vary over the image
        lambda path, x: (
            jax.random.normal(jax.random.key(5), x.shape) / 20 if path[-2].key == "classifier" else x
        ),
        variables["params"],
    )
    return model, {**variables, "params": strong}


class Toy(CCNet):
    """Quick to compile; a pixel's logits depend on its place, and on all of the window it is shown in."""

    traced = []  # noqa: RUF012 - the shapes that it was compiled for

    def __call__(self, images, train=False, upsample=True):
        self.traced.append(images.shape)
        x = images / 128 - 1
        rows, columns = (jnp.arange(side) / side for side in images.shape[1:3])
        place = rows[:, None] - columns
        frequencies = 1 + jnp.arange(self.num_classes)
        context = x.mean((1, 2, 3))[:, None, None] + place
        return 3 * jnp.sin(frequencies * (x.sum(-1) + 2 * context)[..., None]), None


def bilinear(x, size, align_corners):
    """x [h, w, c] in float64 to [*size, c], as PyTorch documents `interpolate`."""
    for axis, out in enumerate(size):
        side = x.shape[axis]
        if align_corners:
            position = np.arange(out) * (side - 1) / max(out - 1, 1)
        else:
            position = np.maximum((np.arange(out) + 0.5) * side / out - 0.5, 0)
        low = np.minimum(np.floor(position).astype(int), side - 1)
        high = np.minimum(low + 1, side - 1)
        fraction = (position - low).reshape([-1 if i == axis else 1 for i in range(3)])
        x = (1 - fraction) * x.take(low, axis) + fraction * x.take(high, axis)
    return x


def loop_by_hand(apply, image, mode, align_corners):
    """One image's logits [H, W, classes], or the sum of several softmaxes, window by window in float64."""
    height, width = image.shape[:2]
    total = 0
    for scale in mode.scales:
        h, w = mode.input_size((height, width), scale)
        resized = bilinear(image.astype(float), (h, w), mode.scaling == "scipy" and scale != 1)
        for mirror in (False, True) if mode.flip else (False,):
            x = resized[:, ::-1] if mirror else resized
            window = mode.window or (h, w)
            logits = sliding_windows_by_hand(apply, x, *window, *(mode.stride or window))
            logits = bilinear(logits, (height, width), align_corners)
            if (mode.flip or len(mode.scales) > 1) and not mode.average_logits:
                logits = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
            total = total + (logits[:, ::-1] if mirror else logits)
    return total


def sliding_windows_by_hand(apply, x, window_height, window_width, down, across):
    height, width = x.shape[:2]
    total, count = 0, np.zeros((height, width, 1))
    for i in range(max(height - window_height + down - 1, 0) // down + 1):
        for j in range(max(width - window_width + across - 1, 0) // across + 1):
            bottom, right = min(i * down + window_height, height), min(j * across + window_width, width)
            top, left = max(bottom - window_height, 0), max(right - window_width, 0)
            logits = apply(x[top:bottom, left:right])
            padding = ((top, height - bottom), (left, width - right), (0, 0))
            total = total + np.pad(logits, padding)
            count[top:bottom, left:right] += 1
    assert count.min() > 0
    return total / count


def applied(model, variables):
    """image [h, w, 3] -> logits [h, w, classes]"""
    apply = jax.jit(model.apply)
    return lambda x: np.asarray(apply(variables, jnp.asarray(x[None], jnp.float32))[0][0], np.float64)


def assert_classes(got, wanted):
    """`got` [H, W] is the largest of `wanted` [H, W, classes], except where two are nearly equal."""
    assert got.dtype == np.uint8
    first, second = np.sort(wanted, -1)[..., :-3:-1].T
    clear = (first - second).T > 1e-3
    assert clear.mean() > 0.95
    np.testing.assert_array_equal(got[clear], wanted.argmax(-1)[clear])
    assert len(np.unique(got)) > 1


SLIDE = {"window": (32, 40), "stride": (20, 27)}


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(
    ("size", "settings"),
    [
        ((57, 98), SLIDE),  # the last windows are moved back
        ((52, 94), SLIDE),  # a multiple of the strides
        ((64, 80), {"window": (32, 40), "stride": (32, 40)}),  # no overlap
        ((36, 34), SLIDE),  # narrower than the window
        ((34, 35), {"window": (64, 64), "stride": (43, 43)}),  # smaller than the window
        ((20, 50), {}),  # smaller than the network takes
        ((50, 81), {"resize": (120, 48)}),  # the short side decides
        ((50, 81), {"resize": (60, 48)}),  # the long side decides
        ((81, 50), {"resize": (150, 75), **SLIDE}),
        ((50, 81), {"scales": (0.5, 1.25), "flip": True}),
        ((50, 81), {"resize": (95, 60), "scales": (0.5, 1.75), "flip": True, **SLIDE}),
        ((50, 81), {"resize": (95, 60), "scales": (0.75, 1.5), "flip": True, "average_logits": True}),
        ((50, 81), {"scales": (0.75, 1.0), "average_logits": True, "scaling": "scipy"}),
    ],
)
def test_every_way_of_testing_equals_the_loop_by_hand(size, settings, align_corners):
    model = Toy(8, align_corners=align_corners)
    mode = TestMode(**settings)
    image = Streets("val")[0]["image"][: size[0], : size[1]]
    got = predictor(model, mode)({}, jnp.asarray(image[None]))
    wanted = loop_by_hand(applied(model, {}), image, mode, align_corners)
    assert_classes(np.asarray(got)[0], wanted)


@pytest.mark.parametrize(
    "settings",
    [
        {"resize": (95, 60)},
        {"resize": (95, 60), "scales": (0.75, 1.5), "flip": True},
        {**SLIDE, "scales": (0.75, 1.0), "flip": True},  # at 1.0 nothing is to be resized
        {**SLIDE, "scales": (1.0, 0.75), "flip": True},
    ],
)
def test_rows_are_upsampled_in_blocks(settings, monkeypatch):
    model, mode = Toy(8), TestMode(**settings)
    images = jnp.asarray(Streets("val")[0]["image"][None, :50, :81])
    whole = np.asarray(scorer(model, mode)({}, images))
    monkeypatch.setattr(prediction, "BLOCK_BYTES", 2**15)  # 50 rows in four blocks of 13
    np.testing.assert_allclose(scorer(model, mode)({}, images), whole, atol=1e-5)
    got = np.asarray(predictor(model, mode)({}, images))
    assert got.shape == (1, 50, 81)
    assert_classes(got[0], whole[0])


def test_the_network_is_compiled_once_for_each_window_shape():
    model = Toy(8, name="compiled_nowhere_else")
    predict = predictor(model, TestMode(**SLIDE, scales=(1.0, 1.5)))
    Toy.traced.clear()
    for size in ((57, 98), (34, 98)):
        predict({}, jnp.zeros((2, *size, 3), jnp.uint8))
    assert Toy.traced == [(8, 32, 40, 3)]  # four windows of each image
    whole = predictor(model, TestMode(resize=(96, 48)))
    for size in ((50, 100), (24, 48)):
        whole({}, jnp.zeros((2, *size, 3), jnp.uint8))
    assert Toy.traced == [(8, 32, 40, 3), (2, 48, 96, 3)]


def test_a_batch_stays_split_over_the_devices():
    model = Toy(8)
    images = np.random.default_rng(0).integers(0, 256, (8, 40, 50, 3), np.uint8)
    split = devices.batch_sharding(devices.data_mesh())
    mode = TestMode(resize=(70, 52), scales=(1.0, 1.25), flip=True, **SLIDE)
    on_eight = jax.device_put(images, split)
    got = predictor(model, mode)({}, on_eight)
    assert got.sharding.is_equivalent_to(split, got.ndim)
    on_one = predictor(model, mode)({}, jnp.asarray(images))
    assert (np.asarray(got) == np.asarray(on_one)).mean() > 0.999


def test_ccnet_is_tested_so_too():
    model, variables = network()
    image = Streets("val")[0]["image"][:48, :64]
    apply = applied(model, variables)
    whole = predictor(model)(variables, jnp.asarray(image[None]))
    assert_classes(np.asarray(whole)[0], apply(image))
    mode = TestMode(scales=(1.0,), flip=True)
    mirrored = predictor(model, mode)(variables, jnp.asarray(image[None]))
    assert_classes(np.asarray(mirrored)[0], loop_by_hand(apply, image, mode, True))


@given(st.integers(1, 4), st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 256))
def test_blocks_cover_all_rows_and_stay_small(batch, height, width, num_classes):
    count, rows = prediction.row_blocks((batch, height, width, 3), num_classes)
    assert count * rows >= height
    bytes_of_a_row = batch * width * num_classes * 4
    assert (rows - 1) * bytes_of_a_row <= prediction.BLOCK_BYTES


@pytest.mark.parametrize("align_corners", [False, True])
def test_largest_and_sum_of_upsampled_logits(align_corners):
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 6, 5)), jnp.float32)
    wanted = resize_bilinear(logits, (13, 11), align_corners)
    matrices = upsampling_matrices([(4, 6), (13, 11)], align_corners, (3, 5))
    largest = prediction.largest_upsampled(logits, matrices)
    assert largest.shape == (2, 15, 11)
    assert largest.dtype == jnp.uint8
    np.testing.assert_array_equal(largest[:, :13], wanted.argmax(-1))
    for wrong in (jnp.nan, jnp.inf):  # of one class, at one place of the first image
        spoilt = prediction.largest_upsampled(logits.at[0, 1, 2, 3].set(wrong), matrices)[:, :13]
        assert (spoilt[0] == VOID).any()
        np.testing.assert_array_equal(spoilt[1], largest[1, :13])
    total = prediction.add_upsampled(jnp.ones((2, 3, 5, 11, 5)), logits, matrices, probabilities=False)
    np.testing.assert_allclose(total.reshape(2, 15, 11, 5)[:, :13], 1 + wanted, atol=1e-5)
