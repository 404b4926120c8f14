"""A loaded network: called, jitted, mapped, split over devices, asked for a prediction."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ccnet_jax
from ccnet_jax import devices, visualize
from ccnet_jax.data.datasets.streets import CLASSES, Streets
from ccnet_jax.errors import UserError
from ccnet_jax.evaluation import prediction
from tests import helpers
from tests.miniatures import write


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
    everywhere = jax.device_put(model, devices.replicated(mesh))
    images = np.stack([np.roll(image(), i, 1) for i in range(8)])
    logits = jax.jit(lambda model, images: model(images))(everywhere, jax.device_put(images, split))
    assert logits.sharding.is_equivalent_to(split, logits.ndim)
    assert_close(logits[:2], jax.jit(model)(images[:2]))
    two = everywhere.replace(testing=prediction.Testing(window=(48, 48), stride=(32, 32)))
    one = model.replace(testing=two.testing)
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
    several = model.replace(testing=prediction.Testing(scales=(0.75, 1.0), flip=True))
    prediction = several.predict(image())
    np.testing.assert_allclose(prediction.probabilities.sum(-1), 1, atol=1e-5)
    predict = prediction.predictor(model.network, several.testing)
    label = np.asarray(predict(model.variables, jnp.asarray(image()[None])))[0]
    assert (prediction.label == label).mean() > 0.999


def test_what_cannot_be_loaded_or_predicted_is_one_sentence(model, run, tmp_path):
    with pytest.raises(UserError, match="nowhere is not a run: it has no config.json"):
        ccnet_jax.load(tmp_path / "nowhere")
    (tmp_path / "weights.pth").write_bytes(b"weights")
    with pytest.raises(UserError, match="weights.pth is not a run: it has no config.json"):
        ccnet_jax.load(tmp_path / "weights.pth")
    with pytest.raises(UserError, match="holds no checkpoint"):
        ccnet_jax.load(run[0], "best")
    with pytest.raises(UserError, match=r"must be uint8 \[H, W, 3\] RGB, not float32 \[64, 96, 3\]"):
        model.predict(image().astype(np.float32))
    with pytest.raises(UserError, match="gone.png cannot be read"):
        model.predict(tmp_path / "gone.png")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match="bad.png is damaged or not a picture"):
        model.predict(tmp_path / "bad.png")


def test_a_run_from_before_the_class_names_were_kept_has_its_data_set_s(run, model, tmp_path):
    folder = tmp_path / "old"
    folder.mkdir()
    (folder / "checkpoints").symlink_to(run[0] / "checkpoints")
    (folder / "config.json").write_text((run[0] / "config.json").read_text())
    assert ccnet_jax.load(folder).classes == CLASSES
    (folder / "classes.json").write_text("{}")
    with pytest.raises(UserError, match="classes.json cannot be read"):
        ccnet_jax.load(folder)
