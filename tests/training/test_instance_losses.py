import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ccnet_jax.common import devices
from ccnet_jax.models.detection.boxes import encode_boxes
from ccnet_jax.models.detection.config import DetectionConfig
from ccnet_jax.models.detection.mask_rcnn import MaskRCNN, RPNOutput
from ccnet_jax.models.detection.matching import IGNORED
from ccnet_jax.models.detection.proposals import BOX_WEIGHTS
from ccnet_jax.training import instance_losses
from ccnet_jax.training.instance_losses import make_instance_loss

pytestmark = pytest.mark.slow

OBJECTS = np.array([[4, 6, 28, 30], [40, 10, 60, 50], [0, 0, 0, 0]], np.float32)


def batch_of(images):
    """Images of 64x64 with two objects each, in lists of three; the second object is a diagonal."""
    masks = np.full((3, 8, 8), 255, np.uint8)
    masks[1] = 255 * np.tri(8, dtype=np.uint8)
    masks[2] = 0
    image = np.full((64, 64, 3), 90, np.uint8)
    for box in OBJECTS[:2].astype(int):
        image[box[1] : box[3], box[0] : box[2]] = (200, 40, 160)
    one = {
        "image": image,
        "size": np.array([64, 64], np.int32),
        "boxes": OBJECTS,
        "classes": np.array([0, 2, 0], np.int32),
        "used": np.array([True, True, False]),
        "masks": masks,
    }
    return {key: jnp.asarray(np.stack([value] * images)) for key, value in one.items()}


def test_smooth_l1_is_a_square_then_a_line():
    x = jnp.array([-3.0, -0.5, 0, 0.25, 1, 2])
    np.testing.assert_allclose(instance_losses.smooth_l1(x, 1.0), optax.huber_loss(x), rtol=1e-6)
    np.testing.assert_allclose(instance_losses.smooth_l1(x, 0.5), optax.huber_loss(x, delta=0.5) / 0.5)


def test_region_masks_are_the_part_of_the_object_that_the_region_shows():
    batch = batch_of(1)
    masks, boxes = batch["masks"][0, :2], batch["boxes"][0, :2]
    whole = instance_losses.region_masks(masks, boxes, boxes, 8)
    np.testing.assert_array_equal(whole, masks == 255)
    shifted = boxes.at[0].set(jnp.array([16.0, 6, 40, 30]))  # its right half lies beyond the object
    half = instance_losses.region_masks(masks, boxes, shifted, 8)
    np.testing.assert_array_equal(half[0], np.tile(np.arange(8) < 4, (8, 1)))
    quarter = boxes.at[1].set(jnp.array([40.0, 30, 50, 50]))  # the lower left quarter of the diagonal: full
    assert instance_losses.region_masks(masks, boxes, quarter, 8)[1].all()


def perfect_boxes(match, regions, batch):
    """Logits and deltas without any error."""
    objects = jnp.maximum(match, 0)
    classes = jnp.take_along_axis(batch["classes"], objects, 1)
    logits = 40.0 * jax.nn.one_hot(jnp.where(match >= 0, classes + 1, 0), 4)
    boxes = jnp.take_along_axis(batch["boxes"], objects[..., None], 1)
    deltas = jnp.zeros((*match.shape, 3, 4)) + encode_boxes(boxes, regions, BOX_WEIGHTS)[:, :, None]
    return logits, deltas


def test_box_losses_are_means_over_the_chosen_regions():
    batch = batch_of(2)
    match = jnp.array([[0, 1, -1, -2], [1, -1, -2, -2]])
    chosen = match > -2
    regions = jnp.broadcast_to(
        jnp.array([[2.0, 2, 30, 28], [38, 12, 58, 48], [5, 5, 9, 9], [1, 1, 3, 3]]), (2, 4, 4)
    )
    logits, deltas = perfect_boxes(match, regions, batch)
    losses = instance_losses.box_losses(logits, deltas, regions, match, chosen, batch)
    assert losses["class_loss"].value < 1e-6
    assert losses["box_loss"].value < 1e-6

    wrong = deltas.at[0, 0, 0, 1].add(3.0)  # of a region of class 0
    wrong = (
        wrong.at[0, 1, 0].add(7.0).at[0, 2].add(7.0).at[0, 3].add(7.0)
    )  # other classes, no objects: no matter
    losses = instance_losses.box_losses(logits, wrong, regions, match, chosen, batch)
    np.testing.assert_allclose(losses["box_loss"].value, 2.5 / 5, rtol=1e-4)

    undecided = jnp.zeros_like(logits)
    losses = instance_losses.box_losses(undecided, deltas, regions, match, chosen, batch)
    np.testing.assert_allclose(losses["class_loss"].value, np.log(4), rtol=1e-6)


def test_the_mask_loss_looks_at_the_objects_class_alone():
    batch = batch_of(1)
    match, chosen = jnp.array([[1, -1]]), jnp.array([[True, True]])
    regions = batch["boxes"][:, [1, 0]]
    right = 40.0 * (2 * jnp.asarray(np.tri(8)) - 1)
    logits = jnp.zeros((1, 2, 8, 8, 3)).at[0, 0, :, :, 2].set(right)
    assert instance_losses.mask_loss(logits, regions, match, chosen, batch).value < 1e-6
    other = logits.at[0, 0, :, :, 2].set(0)
    np.testing.assert_allclose(
        instance_losses.mask_loss(other, regions, match, chosen, batch).value, np.log(2), rtol=1e-5
    )


def test_proposal_losses_are_means_over_the_chosen_anchors():
    batch = batch_of(2)
    anchors = [jnp.asarray(OBJECTS[:2]), jnp.array([[100.0, 100, 120, 120], [5, 6, 28, 30]])]
    logits = [jnp.full((2, 2), 40.0), jnp.tile(jnp.array([-40.0, 40.0]), (2, 1))]
    deltas = [jnp.zeros((2, 2, 4)), jnp.zeros((2, 2, 4))]
    keys = jax.random.split(jax.random.key(0), 2)
    losses = instance_losses.proposal_losses(RPNOutput(logits, deltas, anchors), batch, keys, 8)
    assert losses["objectness_loss"].value < 1e-6
    shift = encode_boxes(jnp.asarray(OBJECTS[:1]), anchors[1][1:], (1, 1, 1, 1))
    wanted = instance_losses.smooth_l1(shift, 1 / 9).sum() / 4  # three objects, one background
    np.testing.assert_allclose(losses["proposal_loss"].value, wanted, rtol=1e-5)


def test_a_mean_over_nothing_is_0_without_gradient(monkeypatch):
    """No anchor and no region was chosen."""
    monkeypatch.setattr(instance_losses, "sample_boxes", lambda *_: (jnp.zeros(8, int), jnp.zeros(8, bool)))
    batch = batch_of(1)
    regions = batch["boxes"][:, [1, 0]]
    match, chosen = jnp.full((1, 2), IGNORED), jnp.zeros((1, 2), bool)

    def values(x):
        logits, deltas = x + jnp.zeros((1, 2, 4)), x + jnp.zeros((1, 2, 3, 4))
        found = instance_losses.box_losses(logits, deltas, regions, match, chosen, batch)
        masks = x + jnp.zeros((1, 2, 8, 8, 3))
        found["mask_loss"] = instance_losses.mask_loss(masks, regions, match, chosen, batch)
        rpn = RPNOutput([x + jnp.zeros((1, 3))], [x + jnp.zeros((1, 3, 4))], [jnp.asarray(OBJECTS)])
        keys = jax.random.split(jax.random.key(0), 1)
        found |= instance_losses.proposal_losses(rpn, batch, keys, 8)
        return {name: mean.value for name, mean in found.items()}

    found, slopes = jax.jit(lambda x: (values(x), jax.jacobian(values)(x)))(jnp.float32(3))
    assert len(found) == 5
    assert not any(found.values())
    assert not any(slopes.values())


SMALL = DetectionConfig(
    objects=3, anchor_scale=4.0, train_proposals=20, test_proposals=20, sampled_anchors=32, sampled_regions=16
)


@pytest.fixture(scope="module")
def network():
    return MaskRCNN(3, 10, "rcca", width=0.125, anchor_scale=4.0, stem="deep")


@pytest.fixture(scope="module")
def variables(network):
    return jax.jit(network.init)(jax.random.key(0), jnp.zeros((1, 64, 64, 3), jnp.uint8))


def test_the_draw_is_the_same_on_any_number_of_devices(network, variables):
    loss = jax.jit(make_instance_loss(network, SMALL))

    def losses(count, seed):
        mesh = devices.data_mesh(jax.devices()[:count])
        params, batch_stats, key = jax.device_put(
            (variables["params"], variables["batch_stats"], jax.random.key(seed)),
            devices.replicated_sharding(mesh),
        )
        return loss(params, batch_stats, devices.put_batch(batch_of(8), mesh), key)[1][0]

    one, eight, another = losses(1, 0), losses(8, 0), losses(1, 1)
    for name, value in one.items():
        np.testing.assert_allclose(eight[name], value, rtol=1e-5, err_msg=name)
    for name in ("objectness_loss", "class_loss"):  # the draw makes a difference
        assert abs(another[name] / one[name] - 1) > 1e-4, name


def test_a_network_learns_its_two_objects(network, variables):
    """Some steps on one image lower every loss, and every parameter has a gradient."""
    batch = batch_of(2)
    gradient = jax.value_and_grad(make_instance_loss(network, SMALL), has_aux=True)
    optimizer = optax.sgd(0.01, momentum=0.9)

    @jax.jit
    def step(params, batch_stats, buffers, key):
        (_, (metrics, batch_stats)), gradients = gradient(params, batch_stats, batch, key)
        updates, buffers = optimizer.update(gradients, buffers)
        return optax.apply_updates(params, updates), batch_stats, buffers, metrics, gradients

    params, batch_stats = variables["params"], variables["batch_stats"]
    buffers = optimizer.init(params)
    history = []
    for i in range(16):
        params, batch_stats, buffers, metrics, gradients = step(
            params, batch_stats, buffers, jax.random.key(i)
        )
        history.append({name: float(value) for name, value in metrics.items()})
    assert all(np.isfinite(list(row.values())).all() for row in history)
    assert set(history[0]) == {
        *("objectness_loss", "proposal_loss", "class_loss", "box_loss", "mask_loss", "loss")
    }
    np.testing.assert_allclose(
        history[0]["loss"], sum(value for name, value in history[0].items() if name != "loss"), rtol=1e-5
    )
    for name in ("objectness_loss", "class_loss", "mask_loss", "loss"):
        first, last = (np.mean([row[name] for row in rows]) for rows in (history[:4], history[-4:]))
        assert last < 0.9 * first, name
    still = [
        "/".join(str(key.key) for key in path)
        for path, value in jax.tree.leaves_with_path(gradients)
        if not jnp.any(value)
    ]
    assert still == []
