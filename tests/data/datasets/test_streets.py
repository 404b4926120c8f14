import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccnet_jax.config import config_files
from ccnet_jax.config.config import parse
from ccnet_jax.config.config_files import ConfigName
from ccnet_jax.data.datasets import streets
from ccnet_jax.data.datasets.streets import (
    CLASSES,
    CONTEXT_CLASSES,
    FAR_REACH,
    SIGNAL_REACH,
    WIDTH,
    Streets,
    draw_scene,
)
from ccnet_jax.models.config import build_network
from tests.helpers import with_gamma

pytestmark = pytest.mark.slow

SIGNALS = [CLASSES.index("red signal"), CLASSES.index("green signal")]
CONTEXT = [CLASSES.index(name) for name in CONTEXT_CLASSES]


def test_pixels_are_the_same_on_every_machine():
    digest = hashlib.sha256()
    for split in ("train", "val", "test"):
        for index in (0, 1, 77):
            sample = Streets(split)[index]
            digest.update(sample["image"].tobytes() + sample["label"].tobytes())
    assert digest.hexdigest() == "aa00dfb29199cb683db844819c6702e5cc0111c16b9605ec19c9dc357a0cd61c"


def test_interface_of_a_data_set():
    source = Streets("val")
    sample = source[3]
    assert sample["image"].shape == (96, 192, 3)
    assert sample["image"].dtype == np.uint8
    assert sample["label"].shape == (96, 192)
    assert sample["label"].dtype == np.uint8
    assert len(CLASSES) == len(streets.PALETTE) >= 8
    again = Streets("val")[3]
    np.testing.assert_array_equal(sample["image"], again["image"])
    assert not np.array_equal(sample["image"], source[4]["image"])
    assert not np.array_equal(sample["image"], Streets("train")[3]["image"])


def test_every_class_and_void_occur():
    counts = sum(np.bincount(Streets("val")[i]["label"].ravel(), minlength=256) for i in range(60))
    assert (counts[: len(CLASSES)] > 300).all()
    assert counts[255] > 0
    assert counts[len(CLASSES) : 255].sum() == 0


def test_signal_and_what_it_decides_are_far_apart():
    source = Streets("train")
    for i in range(200):
        label = source[i]["label"]
        signal, far = np.isin(label, SIGNALS), np.isin(label, CONTEXT)
        assert signal.any()
        rows, columns = np.nonzero(signal)
        if columns.min() > WIDTH // 2:  # a mirrored scene
            label, signal, far = label[:, ::-1], signal[:, ::-1], far[:, ::-1]
            rows, columns = np.nonzero(signal)
        assert columns.max() < SIGNAL_REACH
        assert rows.max() < streets.SIGNAL_BOTTOM
        far_rows, far_columns = np.nonzero(far)
        assert far_columns.min() >= WIDTH - FAR_REACH
        assert far_rows.min() >= streets.FAR_TOP


def test_only_the_signal_tells_the_pairs_apart():
    names = dict(zip(CONTEXT[1::2], CONTEXT[::2], strict=True))  # closed -> open, waiting -> moving
    for seed in range(50):
        red, green = (draw_scene(np.random.RandomState(seed), red=colour) for colour in (True, False))
        signal = red[1] == SIGNALS[0]
        np.testing.assert_array_equal(signal, green[1] == SIGNALS[1])
        np.testing.assert_array_equal(red[0][~signal], green[0][~signal])
        translated = red[1].copy()
        for closed, opened in {**names, SIGNALS[0]: SIGNALS[1]}.items():
            translated[red[1] == closed] = opened
        np.testing.assert_array_equal(translated, green[1])
        assert np.isin(red[1], CONTEXT).any()


@pytest.mark.parametrize(("context", "sees"), [("none", False), ("rcca", True)])
def test_the_demo_network_sees_the_signal_only_through_its_context_module(context, sees):
    """The gradient of far logits at the signal's pixels: exactly zero without a context module."""
    config = parse(config_files.load(ConfigName.of("demo")), {"model.context": context})
    model = build_network(config.model, len(CLASSES), config.dtype)
    image = jnp.asarray(Streets("train")[0]["image"][None], jnp.float32)
    if np.isin(Streets("train")[0]["label"][:, WIDTH // 2 :], SIGNALS).any():
        image = image[:, :, ::-1]
    variables = jax.jit(model.init)(jax.random.key(0), image)
    variables = with_gamma(variables, 1.0)
    # random signs keep the channels from cancelling; every far logit takes part
    signs = jax.random.normal(jax.random.key(1), (1, *image.shape[1:3], len(CLASSES)))
    signs = signs.at[:, :, : WIDTH - FAR_REACH].set(0)
    gradient = jax.jit(jax.grad(lambda x: (model.apply(variables, x)[0] * signs).sum()))(image)
    near = np.abs(np.asarray(gradient)[0, :, :SIGNAL_REACH]).max()
    assert np.abs(gradient).max() > 0
    assert (near > 0) == sees
