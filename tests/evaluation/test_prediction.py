import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccnet_jax import CCNet, devices
from ccnet_jax.data import pipeline
from ccnet_jax.data.datasets.streets import Streets
from ccnet_jax.evaluation import prediction
from tests import helpers
from tests.miniatures import write_camvid, write_cityscapes


class Mixed:
    """Pictures of three sizes, labelled at random; some void."""

    classes = ("a", "b", "c")
    palette = np.array([(255, 0, 0), (0, 255, 0), (0, 0, 255)], np.uint8)

    def __len__(self):
        return 7

    def __getitem__(self, i):
        rng = np.random.default_rng(i)
        size = [(40, 33), (32, 64), (33, 33)][i % 3]
        label = rng.integers(0, 3, size).astype(np.uint8)
        label[rng.random(size) < 0.1] = 255
        return {"image": rng.integers(0, 256, (*size, 3), np.uint8), "label": label}

    def name(self, i):
        return f"picture{i}"


def network():
    model = CCNet(3, 10, "official", width=0.125)
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    strong = jax.tree_util.tree_map_with_path(  # predictions that vary over the picture
        lambda path, x: (
            jax.random.normal(jax.random.key(5), x.shape) / 20 if path[-2].key == "classifier" else x
        ),
        variables["params"],
    )
    return model, {**variables, "params": strong}


def test_scores_are_exact_over_pictures_of_different_sizes_and_a_device_mesh(tmp_path):
    source = Mixed()
    seen = set()

    @jax.jit
    def predict(variables, images):
        return (images[..., 0] % 3) * variables["one"]

    def record(variables, images):
        seen.add((images.shape, len(images.sharding.device_set)))
        return predict(variables, images)

    wanted = np.zeros((3, 3), np.int64)
    for i in range(7):
        sample = source[i]
        for true, red in zip(sample["label"].ravel(), sample["image"][..., 0].ravel(), strict=True):
            if true != 255:
                wanted[true, red % 3] += 1
    result = prediction.evaluate(record, {"one": jnp.uint8(1)}, source, 2, tmp_path)
    np.testing.assert_array_equal(result["confusion"], wanted)
    hit = np.diag(wanted)
    np.testing.assert_allclose(result["IoU"], hit / (wanted.sum(0) + wanted.sum(1) - hit))
    assert result["pictures"] == 7
    assert seen == {((8, 40, 33, 3), 8), ((8, 32, 64, 3), 8), ((8, 33, 33, 3), 8)}
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"picture{i}.png" for i in range(7)]
    assert prediction.evaluate(record, {"one": jnp.uint8(1)}, source, 2, limit=2)["pictures"] == 2


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
        share = (position - low).reshape([-1 if i == axis else 1 for i in range(3)])
        x = (1 - share) * x.take(low, axis) + share * x.take(high, axis)
    return x


def loop_by_hand(apply, image, testing, align_corners):
    """One picture's logits [H, W, classes], or the sum of several softmaxes, window by window in float64."""
    height, width = image.shape[:2]
    total = 0
    for scale in testing.scales:
        factor = scale
        if testing.fit:  # the box is scaled, in whole pixels
            long, short = (int(side * scale) for side in testing.fit)
            factor = min(long / max(height, width), short / min(height, width))
        h, w = (max(int(side * factor + 0.5), 32) for side in (height, width))
        resized = bilinear(image.astype(float), (h, w), False)
        for mirror in (False, True) if testing.flip else (False,):
            x = resized[:, ::-1] if mirror else resized
            window = testing.window or (h, w)
            logits = slid_by_hand(apply, x, *window, *(testing.stride or window))
            logits = bilinear(logits, (height, width), align_corners)
            if (testing.flip or len(testing.scales) > 1) and not testing.average_logits:
                logits = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
            total = total + (logits[:, ::-1] if mirror else logits)
    return total


def slid_by_hand(apply, x, window_height, window_width, down, across):
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
    """picture [h, w, 3] -> logits [h, w, classes]"""
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
        ((50, 81), {"fit": (120, 48)}),  # the short side decides
        ((50, 81), {"fit": (60, 48)}),  # the long side decides
        ((81, 50), {"fit": (150, 75), **SLIDE}),
        ((50, 81), {"scales": (0.5, 1.25), "flip": True}),
        ((50, 81), {"fit": (95, 60), "scales": (0.5, 1.75), "flip": True, **SLIDE}),
        ((50, 81), {"fit": (95, 60), "scales": (0.75, 1.5), "flip": True, "average_logits": True}),
    ],
)
def test_every_way_of_testing_equals_the_loop_by_hand(size, settings, align_corners):
    model = Toy(8, align_corners=align_corners)
    testing = prediction.Testing(**settings)
    image = Streets("val")[0]["image"][: size[0], : size[1]]
    got = prediction.predictor(model, testing)({}, jnp.asarray(image[None]))
    wanted = loop_by_hand(applied(model, {}), image, testing, align_corners)
    assert_classes(np.asarray(got)[0], wanted)


@pytest.mark.parametrize(
    "settings",
    [
        {"fit": (95, 60)},
        {"fit": (95, 60), "scales": (0.75, 1.5), "flip": True},
        {**SLIDE, "scales": (0.75, 1.0), "flip": True},  # at 1.0 nothing is to be resized
        {**SLIDE, "scales": (1.0, 0.75), "flip": True},
    ],
)
def test_rows_are_upsampled_in_blocks(settings, monkeypatch):
    model, testing = Toy(8), prediction.Testing(**settings)
    images = jnp.asarray(Streets("val")[0]["image"][None, :50, :81])
    whole = np.asarray(prediction.scorer(model, testing)({}, images))
    monkeypatch.setattr(inference, "_BLOCK_BYTES", 2**15)  # 50 rows in four blocks of 13
    np.testing.assert_allclose(prediction.scorer(model, testing)({}, images), whole, atol=1e-5)
    got = np.asarray(prediction.predictor(model, testing)({}, images))
    assert got.shape == (1, 50, 81)
    assert_classes(got[0], whole[0])


def test_the_network_is_compiled_once_for_each_window_shape():
    model = Toy(8, name="compiled_nowhere_else")
    predict = prediction.predictor(model, prediction.Testing(**SLIDE, scales=(1.0, 1.5)))
    Toy.traced.clear()
    for size in ((57, 98), (34, 98)):
        predict({}, jnp.zeros((2, *size, 3), jnp.uint8))
    assert Toy.traced == [(8, 32, 40, 3)]  # four windows of each picture
    whole = prediction.predictor(model, prediction.Testing(fit=(96, 48)))
    for size in ((50, 100), (24, 48)):
        whole({}, jnp.zeros((2, *size, 3), jnp.uint8))
    assert Toy.traced == [(8, 32, 40, 3), (2, 48, 96, 3)]


def test_a_batch_stays_split_over_the_devices():
    model = Toy(8)
    images = np.random.default_rng(0).integers(0, 256, (8, 40, 50, 3), np.uint8)
    split = devices.batch_sharding(devices.data_mesh())
    testing = prediction.Testing(fit=(70, 52), scales=(1.0, 1.25), flip=True, **SLIDE)
    on_eight = jax.device_put(images, split)
    got = prediction.predictor(model, testing)({}, on_eight)
    assert got.sharding.is_equivalent_to(split, got.ndim)
    logits = prediction._slid(model, {}, on_eight, testing.window, testing.stride)
    assert logits.sharding.is_equivalent_to(split, logits.ndim)
    on_one = prediction.predictor(model, testing)({}, jnp.asarray(images))
    assert (np.asarray(got) == np.asarray(on_one)).mean() > 0.999


def test_ccnet_is_tested_so_too():
    model, variables = network()
    image = Streets("val")[0]["image"][:48, :64]
    apply = applied(model, variables)
    whole = prediction.predictor(model)(variables, jnp.asarray(image[None]))
    assert_classes(np.asarray(whole)[0], apply(image))
    testing = prediction.Testing(scales=(1.0,), flip=True)
    mirrored = prediction.predictor(model, testing)(variables, jnp.asarray(image[None]))
    assert_classes(np.asarray(mirrored)[0], loop_by_hand(apply, image, testing, True))


def test_the_config_says_how_and_the_name_tells():
    config = helpers.load_config("demo")
    assert str(prediction.Testing.of(config)) == "whole"
    assert prediction.Testing.of(config) == prediction.WHOLE
    assert str(prediction.Testing.of(config, ms_flip=True)) == "whole, ms-flip"
    config.eval_window, config.eval_stride, config.data.fit = (769, 769), (513, 513), (2049, 1025)
    testing = prediction.Testing.of(config, ms_flip=True)
    assert str(testing) == "fit 2049x1025, slide 769x769/513x513, ms-flip"
    shown = [testing.shown_size((1024, 2048), scale) for scale in prediction.SCALES["mmseg"]]
    assert shown == [(512, 1024), (768, 1536), (1025, 2049), (1281, 2561), (1537, 3073), (1793, 3585)]
    config.model.flavour = "official"
    official = prediction.Testing.of(config, ms_flip=True)
    assert official.average_logits
    assert official.scales == (0.75, 1.0, 1.25, 1.5, 1.75, 2.0)
    assert str(prediction.Testing(scales=(1.0, 2.0))) == "whole, scales 1.0, 2.0"


def test_eval_tests_as_the_config_says_and_refuses_a_split_without_labels(tmp_path):
    folder = write_camvid(tmp_path / "camvid", pictures=2)
    for path in (folder / "labels/val").iterdir():
        cv2.imwrite(str(path), np.full((64, 96), 255, np.uint8))
    changes = {"data__name": "camvid", "data__dir": str(folder), "eval_window": (64, 64)}
    config = helpers.load_config("demo", **changes, eval_stride=(43, 43))
    helpers.write_run(tmp_path / "run", config, pipeline.open_source(config.data, "val"))
    code, out, err = helpers.run("ccnet_jax.eval", "--workdir=run", cwd=tmp_path)
    assert code == 2, err
    assert "step 3, split val, slide 64x64/43x43" in out
    assert "error: split val of camvid has no labels to score; choose another with --split" in err
    assert not list((tmp_path / "run").glob("eval*"))


def test_a_test_servers_folder_holds_every_prediction_in_the_data_sets_own_numbers(tmp_path):
    folder = write_cityscapes(tmp_path / "cityscapes", pictures=2)
    config = helpers.load_config("demo", data__name="cityscapes", data__dir=str(folder))
    source = pipeline.open_source(config.data, "test")
    helpers.write_run(tmp_path / "run", config, source)
    arguments = ("--workdir=run", "--split=test", "--labels=server", "--window=64,64")
    code, out, err = helpers.run("ccnet_jax.eval", *arguments, cwd=tmp_path)
    assert code == 0, err
    assert "split test, slide 64x64/43x43" in out
    assert "2 predictions in server" in out
    names = [source.name(i) for i in range(2)]
    assert names[0].startswith("aachen_")
    assert sorted(path.stem for path in (tmp_path / "server").iterdir()) == names
    published = {7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33}
    for name in names:
        ids = cv2.imread(str(tmp_path / "server" / f"{name}.png"), cv2.IMREAD_UNCHANGED)
        assert ids.shape == (64, 128)
        assert ids.dtype == np.uint8
        assert set(np.unique(ids)) <= published
        assert len(np.unique(ids)) > 1
