import numpy as np

from ccnet_jax.data.instances import cell_fractions


def test_fractions_of_whole_pixels_are_the_mask():
    mask = np.zeros((6, 9), np.uint8)
    mask[1:4, 2:7] = 1
    mask[2, 3] = 0
    fractions = cell_fractions(mask, np.array([2, 1, 6, 5], np.float32), 4)
    np.testing.assert_array_equal(fractions, 255 * mask[1:5, 2:6])


def test_cells_share_the_pixels_that_their_edges_cut():
    mask = np.zeros((4, 4), np.uint8)
    mask[:, 1] = 1
    fractions = cell_fractions(mask, np.array([0.5, 0, 2.5, 4], np.float32), 2)
    np.testing.assert_array_equal(fractions, [[128, 128], [128, 128]])  # half of each
    fractions = cell_fractions(mask, np.array([0.75, 1, 2.75, 2], np.float32), 2)
    np.testing.assert_array_equal(fractions, [[191, 64], [191, 64]])


def test_what_lies_outside_the_image_is_not_covered():
    mask = np.ones((4, 4), np.uint8)
    fractions = cell_fractions(mask, np.array([2, 2, 6, 6], np.float32), 2)
    np.testing.assert_array_equal(fractions, [[255, 0], [0, 0]])


def test_the_sum_of_fractions_is_the_area_in_the_box():
    mask = (np.random.default_rng(0).random((40, 50)) < 0.4).astype(np.uint8)
    box = np.array([3, 4, 37, 36], np.float32)
    fractions = cell_fractions(mask, box, 8)
    area = fractions.sum() / 255 * (34 * 32) / 64
    np.testing.assert_allclose(area, mask[4:36, 3:37].sum(), rtol=0.01)
