import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccnet_jax.models.detection.matching import BACKGROUND, IGNORED, match_boxes, sample_boxes

OBJECTS = jnp.array([[0.0, 0, 10, 10], [20, 0, 30, 10], [100, 100, 140, 140], [0, 0, 10, 10]])
USED = jnp.array([True, True, True, False])
BOXES = jnp.array(
    [
        [0.0, 0, 10, 8],  # 0.8 of object 0
        [0, 0, 10, 5],  # 0.5
        [0, 0, 10, 2],  # 0.2
        [50, 50, 60, 60],  # none
        [100, 100, 110, 110],  # 1/16 of object 2, the most that any box has of it
        [21, 0, 31, 10],  # 9/11 of object 1
    ]
)


def test_boxes_stand_for_the_object_they_overlap_most():
    found = match_boxes(BOXES, OBJECTS, USED, 0.7, 0.3, every_object=False)
    np.testing.assert_array_equal(found, [0, IGNORED, BACKGROUND, BACKGROUND, BACKGROUND, 1])


def test_every_object_can_have_its_best_box():
    found = match_boxes(BOXES, OBJECTS, USED, 0.7, 0.3, every_object=True)
    np.testing.assert_array_equal(found, [0, IGNORED, BACKGROUND, BACKGROUND, 2, 1])


def test_an_object_without_any_overlap_takes_no_box():
    far = jnp.array([[500.0, 500, 510, 510]])
    found = match_boxes(BOXES, far, jnp.array([True]), 0.7, 0.3, every_object=True)
    np.testing.assert_array_equal(found, [BACKGROUND] * len(BOXES))


def test_an_image_without_objects_is_background():
    found = match_boxes(BOXES, OBJECTS, jnp.zeros(4, bool), 0.5, 0.5, every_object=True)
    np.testing.assert_array_equal(found, [BACKGROUND] * len(BOXES))


MATCH = jnp.array([3, BACKGROUND, IGNORED, 0, 0, BACKGROUND, BACKGROUND, 1, IGNORED, BACKGROUND])


@pytest.mark.parametrize(
    ("count", "fraction", "positives", "negatives"),
    [(4, 0.5, 2, 2), (4, 0.25, 1, 3), (8, 0.5, 4, 4), (9, 1.0, 4, 4), (16, 0.5, 4, 4)],
)
def test_positives_come_first_and_background_fills_the_rest(count, fraction, positives, negatives):
    places, chosen = sample_boxes(MATCH, jax.random.key(0), count, fraction)
    assert places.shape == chosen.shape == (count,)
    assert chosen.sum() == positives + negatives
    match = MATCH[places]
    assert (match[:positives] >= 0).all()
    assert (match[positives : positives + negatives] == BACKGROUND).all()
    assert chosen[: positives + negatives].all()
    assert len(set(places[chosen].tolist())) == positives + negatives


def test_every_box_has_the_same_chance():
    draws = jax.vmap(lambda key: sample_boxes(MATCH, key, 4, 0.5)[0])(
        jax.random.split(jax.random.key(1), 400)
    )
    counts = np.bincount(np.asarray(draws).ravel(), minlength=10)
    assert (counts[[3, 4, 0, 7]] > 150).all()  # 200 each on average
    assert (counts[[1, 5, 6, 9]] > 150).all()
    assert counts[[2, 8]].sum() == 0
