"""Contact sheets."""

import numpy as np
import pytest

from ccnet_jax import figures

PALETTE = np.array([(100, 0, 0), (0, 120, 0)], np.uint8)
TITLE = 22


@pytest.mark.parametrize(("size", "count", "columns"), [((96, 128), 7, 6), ((769, 769), 3, 2)])
def test_a_contact_sheet_shows_every_crop_beside_its_overlay(size, count, columns):
    images = np.full((count, *size, 3), 200, np.uint8)
    labels = np.ones((count, *size), np.uint8)
    labels[:, : size[0] // 2] = 255
    sheet = figures.contact_sheet(images, labels, ("a", "b"), PALETTE)
    width = min(size[1], 400)
    height = round(size[0] * width / size[1])
    assert 2 * width * columns <= sheet.shape[1] <= 1700
    for i in range(count):
        top, left = TITLE + i // columns * (height + 6), i % columns * (2 * width + 6)
        pair = sheet[top : top + height, left : left + 2 * width]
        assert (pair[:, :width] == 200).all()
        assert set(np.unique(pair[: height // 3, width:])) == {140, 195}  # void, hatched
        np.testing.assert_array_equal(pair[-4, -4], (100, 160, 100))


@pytest.mark.parametrize("size", [(1, 1), (3, 5000), (5000, 3), (64, 64)])
def test_a_contact_sheet_of_few_crops_of_any_size_is_readable(size):
    sheet = figures.contact_sheet(
        np.zeros((2, *size, 3), np.uint8), np.zeros((2, *size), np.uint8), ("a",), PALETTE
    )
    assert 60 <= sheet.shape[0] <= 1000
    assert 400 <= sheet.shape[1] <= 1700
