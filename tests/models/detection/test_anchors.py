import numpy as np

from ccnet_jax.models.detection import anchors


def test_shapes_have_one_area_and_three_ratios():
    [first, square, tall] = anchors.level_anchors((1, 1), (16, 16), 128)
    np.testing.assert_array_equal(square, [-64, -64, 64, 64])
    np.testing.assert_array_equal(first, [-91, -45, 91, 45])  # 181.02 x 90.51, rounded
    np.testing.assert_array_equal(tall, first[[1, 0, 3, 2]])


def test_places_run_through_rows_and_shapes_change_fastest():
    found = anchors.level_anchors((2, 3), (8, 4), 32).reshape(2, 3, 3, 4)
    centres = (found[..., :2] + found[..., 2:]) / 2
    np.testing.assert_array_equal(centres[1, 2], np.tile([8, 8], (3, 1)))
    np.testing.assert_array_equal(centres[0, 1], np.tile([4, 0], (3, 1)))
    np.testing.assert_array_equal(found[0, 0, 1], [-16, -16, 16, 16])


def test_strides_follow_from_the_sizes():
    fine, coarse = anchors.all_anchors([(8, 12), (2, 3)], (64, 96), (32, 64))
    assert fine.shape == (8 * 12 * 3, 4)
    np.testing.assert_array_equal(coarse[-2], [64 - 32, 32 - 32, 64 + 32, 32 + 32])
