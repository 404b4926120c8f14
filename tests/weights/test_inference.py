"""A loaded network: called, jitted, mapped, split over devices, asked for a prediction."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ccnet_jax
from ccnet_jax.common import devices
from ccnet_jax.common.errors import UserError
from ccnet_jax.data.datasets.streets import CLASSES, Streets
from ccnet_jax.evaluation.prediction import predictor
from ccnet_jax.evaluation.test_mode import TestMode
from ccnet_jax.tasks import inputs
from ccnet_jax.weights import visualize
from tests import helpers
from tests.miniatures import write

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(folder, variables) of a run of the demo's network."""
    folder = tmp_path_factory.mktemp("runs") / "demo"
    return folder, helpers.write_run(folder, helpers.load_config("demo"), Streets("val"))


@pytest.fixture(scope="module")
def model(run):
    return ccnet_jax.load(run[0])


def assert_close(got, wanted):
    """Within 1e-4 of the largest logit."""
    np.testing.assert_allclose(got, wanted, atol=1e-4 * np.abs(wanted).max())


def image():
    return Streets("val")[0]["image"][:64, :96]


def test_a_loaded_model_is_the_run_s_network(run, model):
    assert model.classes == CLASSES
    np.testing.assert_array_equal(model.palette, Streets("val").palette)
    jax.tree.map(np.testing.assert_array_equal, model.variables, run[1])
    images = np.stack([image(), image()[::-1]])
    logits = jax.jit(model)(images)
    assert logits.shape == (2, 64, 96, 13)
    assert logits.dtype == jnp.float32
    as_argument = jax.jit(lambda model, images: model(images))(model, images)
    assert_close(logits, as_argument)
    mapped = jax.vmap(lambda one: model(one[None])[0])(jnp.asarray(images))
    assert_close(logits, mapped)


def test_it_is_a_pytree_whose_leaves_are_the_weights(model):
    assert len(jax.tree.leaves(model)) == len(jax.tree.leaves(model.variables))
    doubled = jax.tree.map(lambda x: 2 * x, model)
    assert doubled.network is model.network
    np.testing.assert_array_equal(
        doubled.variables["params"]["head"]["classifier"]["bias"],
        2 * model.variables["params"]["head"]["classifier"]["bias"],
    )


def test_a_batch_that_is_split_over_devices_stays_so(model):
    mesh = devices.data_mesh()
    split = devices.batch_sharding(mesh)
    everywhere = jax.device_put(model, devices.replicated_sharding(mesh))
    images = np.stack([np.roll(image(), i, 1) for i in range(8)])
    logits = jax.jit(lambda model, images: model(images))(everywhere, jax.device_put(images, split))
    assert logits.sharding.is_equivalent_to(split, logits.ndim)
    assert_close(logits[:2], jax.jit(model)(images[:2]))
    two = everywhere.replace(mode=TestMode(window=(48, 48), stride=(32, 32)))
    one = model.replace(mode=two.mode)
    assert (two.predict(image()).label == one.predict(image()).label).mean() > 0.999


def test_a_prediction_is_label_probabilities_and_overlay(model, tmp_path):
    prediction = model.predict(image())
    assert prediction.label.dtype == np.uint8
    assert prediction.probabilities.shape == (64, 96, 13)
    np.testing.assert_allclose(prediction.probabilities.sum(-1), 1, atol=1e-5)
    np.testing.assert_array_equal(prediction.label, prediction.probabilities.argmax(-1))
    wanted = jax.nn.softmax(jax.jit(model)(image()[None])[0])
    np.testing.assert_allclose(prediction.probabilities, wanted, atol=0.01)  # of logits up to 80
    np.testing.assert_array_equal(
        prediction.overlay, visualize.overlay(image(), prediction.label, model.palette)
    )
    write(tmp_path / "a.png", image())
    from_file = model.predict(tmp_path / "a.png")
    np.testing.assert_array_equal(from_file.label, prediction.label)


def test_several_scales_and_mirror_images_still_give_probabilities(model):
    several = model.replace(mode=TestMode(scales=(0.75, 1.0), flip=True))
    prediction = several.predict(image())
    np.testing.assert_allclose(prediction.probabilities.sum(-1), 1, atol=1e-5)
    predict = predictor(model.network, several.mode)
    label = np.asarray(predict(model.variables, jnp.asarray(image()[None])))[0]
    assert (prediction.label == label).mean() > 0.999


def test_what_cannot_be_loaded_or_predicted_is_one_message(model, run, tmp_path):
    with pytest.raises(UserError, match="nowhere is not a run: it has no config.json"):
        ccnet_jax.load(tmp_path / "nowhere")
    (tmp_path / "weights.pth").write_bytes(b"weights")
    with pytest.raises(UserError, match="weights.pth is a file; name the folder of a run"):
        ccnet_jax.load(tmp_path / "weights.pth")
    with pytest.raises(UserError, match="holds no checkpoint"):
        ccnet_jax.load(run[0], "best")
    with pytest.raises(UserError, match=r"must be uint8 \[H, W, 3\] RGB, not float32 \[64, 96, 3\]"):
        model.predict(image().astype(np.float32))
    with pytest.raises(UserError, match="gone.png cannot be read"):
        model.predict(tmp_path / "gone.png")
    (tmp_path / "bad.png").write_bytes(b"no image")
    with pytest.raises(UserError, match="bad.png is corrupt or not an image"):
        model.predict(tmp_path / "bad.png")


def test_weights_that_make_the_output_not_finite_are_told(model):
    """A negative variance is in nothing but the norms' square root."""
    stats = model.variables["batch_stats"]
    spoilt = jax.tree_util.tree_map_with_path(lambda path, x: -x - 1 if path[-1].key == "var" else x, stats)
    with pytest.raises(UserError, match="the network's output for this image is not finite: its weights are"):
        model.replace(variables=model.variables | {"batch_stats": spoilt}).predict(image())


def floating(low, high):
    """A float32 batch with values from `low` to `high`."""
    return np.linspace(low, high, 2 * 32 * 40 * 3).reshape(2, 32, 40, 3).astype(np.float32)


REFUSED = {
    "floats in 0..1": (floating(0, 1), "float32 from 0 to 1, as if white were 1, .*; multiply them by 255"),
    "floats in -1..1": (floating(-1, 1), "from -1 to 1 and look normalised; pass them as they were before"),
    "already normalised": (floating(-2.1, 2.6), "float32 from -2.1 to 2.6 and look normalised"),
    "float64 in 0..1": (floating(0, 1).astype(np.float64), "float64 .* multiply them by 255"),
    "bfloat16 in 0..1": (jnp.asarray(floating(0, 1), jnp.bfloat16), "bfloat16 .* multiply them by 255"),
    "16-bit floats": (floating(0, 65535), "from 0 to 6.55e[+]04, but the network takes 0 to 255; scale them"),
    "NaN": (np.full((1, 32, 32, 3), np.nan, np.float32), "from nan to nan, but must be finite; correct them"),
    "int8": (np.zeros((1, 32, 32, 3), np.int8), "dtype int8, .* takes uint8, or floating .*; convert them"),
    "uint16": (np.zeros((1, 32, 32, 3), np.uint16), "dtype uint16, "),
    "int32": (np.zeros((1, 32, 32, 3), np.int32), "dtype int32, "),
    "bool": (np.zeros((1, 32, 32, 3), bool), "dtype bool, "),
    "no batch axis": (np.zeros((32, 32, 3), np.uint8), "no batch axis, .* pass images.None"),
    "one grey image": (np.zeros((32, 32), np.uint8), r"takes RGB images \[B, H, W, 3\]"),
    "grey": (np.zeros((1, 32, 32, 1), np.uint8), "not grey ones; pass jnp.repeat"),
    "RGBA": (np.zeros((1, 32, 32, 4), np.uint8), "without alpha; pass images"),
    "two channels": (np.zeros((1, 32, 32, 2), np.uint8), r"takes RGB images \[B, H, W, 3\]"),
    "NCHW": (np.zeros((1, 3, 32, 32), np.uint8), "channels last; pass images.transpose"),
    "an empty batch": (np.zeros((0, 32, 32, 3), np.uint8), "empty; pass at least one image"),
    "an empty image": (np.zeros((1, 0, 32, 3), np.uint8), "empty"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_model_would_misread_is_refused(model, case):
    images, words = REFUSED[case]
    with pytest.raises(UserError, match=words) as error:
        model(images)
    assert "\n" not in str(error.value)


def test_a_list_of_images_is_refused():
    with pytest.raises(UserError, match="must be an array, .* not a list; pass, for example, np.stack"):
        inputs.check_batch([image(), image()])


def test_shapes_and_dtypes_are_checked_under_jit_too(model):
    for case in ("int8", "no batch axis", "NCHW"):
        with pytest.raises(UserError, match=REFUSED[case][1]):
            jax.jit(model)(REFUSED[case][0])


def test_floating_images_from_0_to_255_are_the_same_images(model):
    images = np.stack([image(), np.zeros_like(image())])
    wanted = jax.jit(model)(images)
    assert_close(model(images.astype(np.float32)), wanted)
    black = model(np.zeros(images.shape, np.float32))  # the same image where white is 1
    assert_close(black[1], wanted[1])


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((1, 32, 32, 3), np.uint8),
        np.zeros((32, 32), np.uint8),
        np.zeros((32, 32, 4), np.uint8),
        np.zeros((3, 32, 32), np.uint8),
        np.zeros((32, 32, 3), np.uint16),
        np.zeros((32, 32, 3), np.float32),
    ],
)
def test_predict_refuses_what_is_no_image(model, image):
    with pytest.raises(UserError, match=r"must be uint8 \[H, W, 3\] RGB, not .*; convert it"):
        model.predict(image)


def test_predict_refuses_an_empty_image(model):
    with pytest.raises(UserError, match=r"shape \[0, 32, 3\] is empty"):
        model.predict(np.zeros((0, 32, 3), np.uint8))


def test_attention_maps_are_drawn_of_a_path_as_of_an_array(model, tmp_path):
    write(tmp_path / "a.png", image())
    maps = visualize.attention_map(model, tmp_path / "a.png", (20, 30))
    assert maps.shape == (2, 8, 12)
    np.testing.assert_array_equal(maps, visualize.attention_map(model, image(), (20, 30)))
    np.testing.assert_array_equal(maps, visualize.attention_map(model, str(tmp_path / "a.png"), (20, 30)))
    with pytest.raises(UserError, match="gone.png cannot be read"):
        visualize.attention_map(model, "gone.png", (20, 30))
    with pytest.raises(UserError, match=r"the point \(64, 0\) is no pixel of the image of 64 rows"):
        visualize.attention_map(model, image(), (64, 0))


def test_a_tilde_is_the_user_s_home_in_every_path(model, run, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(run[0].parent))
    assert ccnet_jax.load("~/demo").classes == model.classes
    other = ccnet_jax.load("~/demo", "~/demo/checkpoints/last/3")
    jax.tree.map(np.testing.assert_array_equal, other.variables, model.variables)
    write(run[0].parent / "a.png", image())
    np.testing.assert_array_equal(model.predict("~/a.png").label, model.predict(image()).label)
    assert visualize.attention_map(model, "~/a.png", (0, 0)).shape == (2, 8, 12)


def test_a_run_whose_data_set_is_unknown_here_is_loaded_by_its_classes_file(run, model, tmp_path):
    config = json.loads((run[0] / "config.json").read_text())
    config["data"]["name"] = "toy_data_of_someone_else"
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "classes.json").write_text((run[0] / "classes.json").read_text())
    (tmp_path / "checkpoints").symlink_to(run[0] / "checkpoints")
    other = ccnet_jax.load(tmp_path)
    assert (other.classes, other.colours) == (model.classes, model.colours)
    np.testing.assert_array_equal(other.predict(image()).label, model.predict(image()).label)
    (tmp_path / "classes.json").unlink()
    with pytest.raises(UserError, match="has no classes.json; restore that file"):
        ccnet_jax.load(tmp_path)


def test_loops_can_be_changed_and_left_out(model):
    assert model.with_loops(3).network == model.network.clone(loops=3)
    without = model.with_loops(0)
    assert without.network == model.network.clone(context="none")
    assert without.predict(image()).label.shape == (64, 96)
    with pytest.raises(UserError, match="loops are RCCA's, and this network's context is 'none'"):
        without.with_loops(2)
