import jax.numpy as jnp
import numpy as np

from ccnet_jax.models.detection import boxes

ANCHORS = jnp.array([[10.0, 20, 50, 40], [-5, -5, 5, 5], [0, 0, 100, 3]])


def test_overlaps_are_fractions_of_the_union():
    others = jnp.array([[10.0, 20, 50, 40], [30, 20, 70, 40], [60, 60, 61, 61], [7, 7, 7, 7]])
    found = boxes.overlaps(ANCHORS, others)
    np.testing.assert_allclose(found[0], [1, 1 / 3, 0, 0], atol=1e-6)
    assert boxes.overlaps(others[3:], others[3:])[0, 0] == 0  # of boxes without area
    np.testing.assert_allclose(boxes.overlaps(others, ANCHORS), found.T)


def test_deltas_are_those_of_the_paper():
    """Shifts in sides of the anchor, growth as a logarithm, each times its weight."""
    moved = jnp.array([[18.0, 25, 58, 65]])  # by (8, 15) at the centre: twice the height
    deltas = boxes.encode_boxes(moved, ANCHORS[:1], (10, 10, 5, 5))
    np.testing.assert_allclose(deltas, [[10 * 8 / 40, 10 * 15 / 20, 0, 5 * np.log(2)]], rtol=1e-5)


def test_decoding_is_the_inverse_of_encoding():
    wanted = jnp.array([[1.0, 2, 30, 70], [-8, -3, 1, 2], [50, 1, 60, 2]])
    for weights in ((1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)):
        deltas = boxes.encode_boxes(wanted, ANCHORS, weights)
        np.testing.assert_allclose(boxes.decode_boxes(deltas, ANCHORS, weights), wanted, rtol=1e-4, atol=1e-4)


def test_growth_is_limited():
    box = boxes.decode_boxes(jnp.array([[0.0, 0, 99, 0]]), jnp.array([[0.0, 0, 16, 16]]), (1, 1, 1, 1))
    np.testing.assert_allclose(box, [[8 - 500, 0, 8 + 500, 16]], rtol=1e-4)


def test_deltas_of_boxes_without_area_are_finite():
    empty = jnp.zeros((3, 4))
    assert jnp.isfinite(boxes.encode_boxes(empty, ANCHORS, (1, 1, 1, 1))).all()
    assert jnp.isfinite(boxes.encode_boxes(ANCHORS, empty, (1, 1, 1, 1))).all()


def test_boxes_are_cut_at_the_edges_of_the_image():
    cut = boxes.clip_boxes(jnp.array([[-3.0, 5, 200, 90], [150, -9, 160, -1]]), jnp.array([60.0, 100]))
    np.testing.assert_array_equal(cut, [[0, 5, 100, 60], [100, 0, 100, 0]])
    np.testing.assert_array_equal(boxes.area(cut), [100 * 55, 0])
