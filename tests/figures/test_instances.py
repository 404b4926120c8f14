import numpy as np
import pytest

from ccnet_jax.figures.instances import instance_comparison, instance_overlay

CLASSES = ("car", "a very long name of a class that is wider than the picture is by far, whatever it means")
PALETTE = np.array([[0, 200, 0], [200, 0, 0]], np.uint8)
IMAGE = np.full((80, 120, 3), 100, np.uint8)


def overlay_of(boxes, labels, scores=None, image=IMAGE):
    masks = np.zeros((len(boxes), *image.shape[:2]), np.uint8)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True):
        mask[y0:y1, x0:x1] = 1
    return instance_overlay(
        image, np.array(boxes).reshape(-1, 4), np.array(labels, int), masks, CLASSES, PALETTE, scores
    )


def test_masks_have_their_classes_colours_and_the_rest_is_the_picture():
    drawn = overlay_of([(30, 40, 60, 70)], [0])
    assert drawn.shape == (240, 360, 3)  # enlarged three times
    np.testing.assert_array_equal(drawn[3 * 55, 3 * 45], [50, 150, 50])
    np.testing.assert_array_equal(drawn[3 * 75, 3 * 100], [100, 100, 100])
    np.testing.assert_array_equal(drawn[3 * 40, 3 * 45], [0, 200, 0])  # the box
    assert (drawn[3 * 40 - 22 : 3 * 40 - 2, 3 * 30 : 3 * 30 + 40] == 255).any()  # its name, above


def test_the_first_instance_lies_uppermost():
    drawn = overlay_of([(30, 40, 60, 70), (40, 50, 80, 75)], [1, 0])
    red, green = drawn[3 * 60, 3 * 50, :2].astype(int)
    assert red > green


@pytest.mark.parametrize("box", [(0, 0, 5, 5), (100, 60, 120, 80), (0, 0, 120, 80)])
@pytest.mark.parametrize("label", [0, 1])
def test_names_stay_inside_the_picture(box, label):
    drawn = overlay_of([box], [label], scores=np.array([0.5]))
    assert drawn.shape == (240, 360, 3)


def test_a_picture_without_instances_is_itself():
    np.testing.assert_array_equal(overlay_of([], []), np.full((240, 360, 3), 100, np.uint8))


def test_overlays_stand_under_their_titles():
    drawn = overlay_of([(30, 40, 60, 70)], [0])
    figure = instance_comparison({"truth": drawn, "prediction": drawn})
    assert figure.shape[0] > 240
    assert figure.shape[1] >= 720
