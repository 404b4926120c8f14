"""A batch in parts gives the loss, the metrics and the gradient of the whole, however it is labelled."""

import itertools
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ccnet_jax.models.ccnet import CCNet
from ccnet_jax.models.detection.config import DetectionConfig
from ccnet_jax.models.detection.mask_rcnn import MaskRCNN, RPNOutput
from ccnet_jax.training import instance_losses
from ccnet_jax.training import step as training_step
from ccnet_jax.training.instance_losses import make_instance_loss
from ccnet_jax.training.losses import AVERAGES, LOSSES, LossConfig
from ccnet_jax.training.semantic_loss import make_loss
from ccnet_jax.training.step import State, make_train_step

pytestmark = pytest.mark.slow

CLASSES = 3


class Linear(CCNet):
    """Logits and auxiliary logits of each pixel's colours: no norm, no dropout."""

    def apply(self, variables, images, **options):
        x = images.astype(jnp.float32)[:, ::2, ::2] / 255
        return tuple(x @ variables["params"][name] for name in ("main", "auxiliary")), {"batch_stats": {}}


def labelled_batch():
    """Four images: one without labels, one with a single labelled pixel, one of a single class."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, (4, 12, 10)).astype(np.uint8)
    labels[0] = 255
    labels[1] = 255
    labels[1, 3, 4] = 2
    labels[2] = 0
    images = rng.integers(0, 256, (4, 12, 10, 3)).astype(np.uint8)
    return {"image": jnp.asarray(images), "label": jnp.asarray(labels)}


def after_a_step(loss, params, batch, accumulate):
    """Metrics and the gradient, which is what SGD at a rate of 1 takes off."""
    optimizer = optax.sgd(1.0)
    state = State(jnp.int32(0), {"params": params, "batch_stats": {}}, optimizer.init(params))
    new, metrics = make_train_step(loss, optimizer, 0, accumulate)(jax.tree.map(jnp.copy, state), batch)
    return metrics, jax.tree.map(jnp.subtract, params, new.variables["params"])


def check_parts(loss, params, batch, accumulate):
    whole, wanted = after_a_step(loss, params, batch, 1)
    assert float(whole["loss"]) > 0
    assert all(jnp.any(x) for x in jax.tree.leaves(wanted))
    metrics, gradient = after_a_step(loss, params, batch, accumulate)
    for name, value in whole.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-5, err_msg=name)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), gradient, wanted)


SETTINGS = {
    "plain": {},
    "weighted": {"class_weights": (0.5, 2.0, 7.0)},
    "smoothed": {"label_smoothing": 0.3},
    "a class without weight": {"class_weights": (0.0, 2.0, 7.0), "label_smoothing": 0.3},
}


@pytest.mark.parametrize(
    ("name", "average_over", "settings"), list(itertools.product(LOSSES, AVERAGES, SETTINGS))
)
def test_parts_of_a_labelled_batch(name, average_over, settings):
    # without a smallest number of pixels the hard ones do not depend on the others of the batch
    config = LossConfig(
        name=name, average_over=average_over, ohem_threshold=0.4, ohem_min_kept=0, **SETTINGS[settings]
    )
    rng = np.random.default_rng(1)
    params = {head: jnp.asarray(rng.normal(size=(3, CLASSES)), jnp.float32) for head in ("main", "auxiliary")}
    check_parts(make_loss(Linear(CLASSES), config), params, labelled_batch(), 4)


class Regions(MaskRCNN):
    """A region network whose logits and boxes depend on the image's mean colour: no norm."""

    def apply(self, variables, x, *arguments, method, **options):
        return getattr(self, f"find_{method}")(variables["params"], x, *arguments)

    def find_pyramid(self, params, images, *_):
        return [images.astype(jnp.float32).mean((1, 2)) / 255], {}

    def find_rpn(self, params, pyramid, image):
        corners = jnp.array([[y, x] for y in range(0, 48, 12) for x in range(0, 48, 12)], jnp.float32)
        anchors = jnp.concatenate([corners, corners + 20], -1)
        logits = pyramid[0] @ params["objectness"]
        deltas = 0.3 * jnp.tanh(pyramid[0] @ params["deltas"]).reshape(len(logits), -1, 4)
        return RPNOutput([logits], [deltas], [anchors])

    def find_boxes(self, params, pyramid, regions):
        x = pyramid[0][:, None] + regions[..., :3] / 64
        deltas = (x @ params["boxes"]).reshape(*x.shape[:2], CLASSES, 4)
        return x @ params["classes"], deltas

    def find_masks(self, params, pyramid, regions):
        x = pyramid[0][:, None, None, None] + regions[..., None, None, :3] / 64
        return jnp.broadcast_to(x @ params["masks"], (*regions.shape[:2], 4, 4, CLASSES))


def proposals(rpn, size, *_):
    """Anchors that the network moved, of which it proposes those that are more like objects than not."""
    return jax.lax.stop_gradient((rpn.anchors[0] + rpn.deltas[0], rpn.logits[0] > 0))


def test_parts_of_a_batch_of_instances(monkeypatch):
    """The number of regions, and of those that stand for objects, differs from image to image."""
    monkeypatch.setattr(instance_losses, "find_proposals", proposals)
    # parts in a loop, as on a GPU: less to compile
    monkeypatch.setattr(training_step, "device", types.SimpleNamespace(kind=lambda: ("gpu", "")))
    rng = np.random.default_rng(2)
    shapes = {"objectness": 16, "deltas": 64, "boxes": 4 * CLASSES, "classes": CLASSES + 1, "masks": CLASSES}
    params = {name: jnp.asarray(rng.normal(size=(3, n)), jnp.float32) for name, n in shapes.items()}
    boxes = np.array([[0, 0, 20, 20], [11, 13, 33, 30], [30, 30, 60, 58]], np.float32)
    used = np.array([[1, 1, 1], [0, 0, 1], [1, 0, 0], [1, 1, 0]], bool)
    batch = {
        "image": rng.integers(0, 256, (4, 64, 64, 3)).astype(np.uint8),
        "size": np.full((4, 2), 64, np.int32),
        "boxes": np.tile(boxes, (4, 1, 1)),
        "classes": rng.integers(0, CLASSES, (4, 3)).astype(np.int32),
        "used": used,
        "masks": np.full((4, 3, 8, 8), 255, np.uint8),
    }
    # so many that every anchor and region is looked at: no draw
    config = DetectionConfig(objects=3, train_proposals=16, sampled_anchors=64, sampled_regions=128)
    loss = make_instance_loss(Regions(CLASSES), config)
    batch = jax.tree.map(jnp.asarray, batch)
    check_parts(loss, params, batch, 2)
    divisors = loss.divisors(params, {}, batch, jax.random.key(0))
    assert divisors["mask_loss"] < divisors["class_loss"]


def test_divisors_that_depend_on_labels_alone_cost_nothing_of_the_network():
    """A program of cross-entropy in parts has as many products of the network as that of the whole batch."""

    def products(config, accumulate):
        loss, optimizer = make_loss(Linear(CLASSES), config), optax.sgd(1.0)
        params = dict.fromkeys(("main", "auxiliary"), jnp.zeros((3, CLASSES)))
        state = State(jnp.int32(0), {"params": params, "batch_stats": {}}, optimizer.init(params))
        lowered = make_train_step(loss, optimizer, 0, accumulate).lower(state, labelled_batch())
        return lowered.compile().cost_analysis()["flops"]

    for average_over in AVERAGES:
        config = LossConfig(average_over=average_over)
        assert products(config, 2) < 1.3 * products(config, 1)
