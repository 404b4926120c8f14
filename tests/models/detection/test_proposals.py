import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccnet_jax.models.detection import anchors, proposals
from ccnet_jax.models.detection.boxes import decode_boxes, overlaps

pytestmark = pytest.mark.slow

SIZE = jnp.array([50.0, 90.0])


def levels(rng):
    """Logits, deltas and anchors of two levels of an image of 64 x 96."""
    boxes = [jnp.asarray(x) for x in anchors.all_anchors([(8, 12), (4, 6)], (64, 96), (16, 32))]
    logits = [jnp.asarray(rng.normal(size=len(x)), jnp.float32) for x in boxes]
    deltas = [jnp.asarray(rng.normal(size=x.shape) / 4, jnp.float32) for x in boxes]
    return logits, deltas, boxes


def test_proposals_are_the_best_of_each_level_then_of_all():
    logits, deltas, boxes = levels(np.random.default_rng(0))
    found, used = jax.jit(proposals.proposals, static_argnums=(4, 5))(logits, deltas, boxes, SIZE, 40, 30)
    assert found.shape == (30, 4)
    assert used.all()
    assert (found[:, 2:] <= SIZE[::-1]).all()
    assert (found >= 0).all()
    best = int(jnp.argmax(logits[0]))
    if logits[0][best] < logits[1].max():
        best_box = decode_boxes(deltas[1], boxes[1], proposals.RPN_WEIGHTS)[jnp.argmax(logits[1])]
    else:
        best_box = decode_boxes(deltas[0], boxes[0], proposals.RPN_WEIGHTS)[best]
    np.testing.assert_allclose(found[0], jnp.clip(best_box, 0, SIZE[jnp.array([1, 0, 1, 0])]), rtol=1e-5)


def test_proposals_of_a_level_do_not_suppress_those_of_another():
    box = jnp.array([[10.0, 10, 42, 42]])
    nothing = jnp.zeros((1, 4))
    find = functools.partial(proposals.proposals, before=5, after=4)
    found, used = find([jnp.ones(1), jnp.zeros(1)], [nothing] * 2, [box, box + 1], SIZE)
    np.testing.assert_array_equal(used, [True, True, False, False])
    np.testing.assert_allclose(found[:2], jnp.concatenate([box, box + 1]))
    both = jnp.concatenate([box, box + 1])
    found, used = find([jnp.array([0.0, 1.0])], [jnp.zeros((2, 4))], [both], SIZE)
    np.testing.assert_array_equal(used, [True, False, False, False])
    np.testing.assert_allclose(found[0], both[1])


def test_proposals_outside_the_image_are_left_out():
    outside = jnp.array([[200.0, 10, 240, 40]])
    _, used = proposals.proposals([jnp.ones(1)], [jnp.zeros((1, 4))], [outside], SIZE, 5, 2)
    assert not used.any()


def find(logits, regions, used=None, deltas=None, **changes):
    settings = {"lowest_score": 0.05, "overlap": 0.5, "count": 5} | changes
    n, classes = logits.shape[0], logits.shape[1] - 1
    used = jnp.ones(n, bool) if used is None else used
    deltas = jnp.zeros((n, classes, 4)) if deltas is None else deltas
    return proposals.detections(logits, deltas, regions, used, SIZE, **settings)


REGIONS = jnp.array([[0.0, 0, 20, 20], [1, 1, 21, 21], [40, 10, 80, 40], [0, 0, 10, 10]])


def logits_of(given):
    return jnp.log(jnp.array(given))


def test_detections_are_suppressed_within_their_class_alone():
    given = [[0.1, 0.8, 0.1], [0.1, 0.6, 0.3], [0.9, 0.06, 0.04], [0.94, 0.03, 0.03]]
    boxes, classes, scores, valid = find(logits_of(given), REGIONS)
    assert valid.sum() == 3  # region 0 and 2 as class 0, region 1 as class 1: better than region 0
    np.testing.assert_array_equal(classes[:3], [0, 1, 0])
    np.testing.assert_allclose(scores[:3], [0.8, 0.3, 0.06], rtol=1e-5)
    np.testing.assert_allclose(boxes[:3], REGIONS[jnp.array([0, 1, 2])])


def test_the_best_detections_are_kept():
    given = [[0.1, 0.8, 0.1], [0.1, 0.6, 0.3], [0.4, 0.2, 0.4], [0.4, 0.3, 0.3]]
    _, _, scores, valid = find(logits_of(given), REGIONS, count=2)
    assert valid.all()
    np.testing.assert_allclose(scores, [0.8, 0.4], rtol=1e-5)
    _, _, scores, valid = find(logits_of(given), REGIONS, used=jnp.array([False, True, True, True]), count=2)
    np.testing.assert_allclose(scores, [0.6, 0.4], rtol=1e-5)


def test_every_class_moves_a_region_its_own_way():
    deltas = jnp.zeros((4, 2, 4)).at[2, 1, 0].set(10 * 0.25)
    given = [[0.98, 0.01, 0.01]] * 2 + [[0.2, 0.3, 0.5]] + [[0.98, 0.01, 0.01]]
    boxes, classes, _, valid = find(logits_of(given), REGIONS, deltas=deltas)
    assert valid.sum() == 2
    np.testing.assert_array_equal(classes[:2], [1, 0])
    np.testing.assert_allclose(boxes[0], [50, 10, 90, 40], rtol=1e-5)  # by a quarter of its width
    assert overlaps(boxes[1:2], REGIONS[2:3])[0, 0] > 0.999
