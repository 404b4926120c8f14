import cv2
import numpy as np
import pytest

from ccnet_jax import visualize

CLASSES = ("road", "sky", "tree")
PALETTE = np.array([(255, 0, 0), (0, 255, 0), (0, 0, 255)], np.uint8)


def test_colours_are_the_palettes_and_void_is_black():
    picture = visualize.colourize(np.array([[0, 1], [2, 255]], np.uint8), PALETTE)
    np.testing.assert_array_equal(picture, [[PALETTE[0], PALETTE[1]], [PALETTE[2], (0, 0, 0)]])


def test_comparison_holds_input_truth_prediction_and_a_legend_of_what_occurs():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (40, 50, 3), np.uint8)
    label, prediction = np.zeros((40, 50), np.uint8), np.full((40, 50), 1, np.uint8)
    picture = visualize.comparison(image, label, prediction, CLASSES, PALETTE)
    zoom = 7
    row = picture[visualize._LINE : visualize._LINE + 40 * zoom]
    np.testing.assert_array_equal(row[zoom // 2 :: zoom, zoom // 2 : 50 * zoom : zoom], image)
    assert (row[:, 50 * zoom + 6 : 100 * zoom + 6] == PALETTE[0]).all()
    assert (row[:, 100 * zoom + 12 :] == PALETTE[1]).all()
    below = picture[visualize._LINE + 40 * zoom :].reshape(-1, 3)
    for colour, wanted in zip(PALETTE, (True, True, False), strict=True):
        assert (below == colour).all(1).any() == wanted


def test_pictures_are_saved_as_they_are(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (5, 6, 3), np.uint8)
    visualize.save_picture(tmp_path / "new" / "a.png", picture)
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "new/a.png"))[..., ::-1], picture)


@pytest.mark.parametrize(("size", "count", "columns"), [((48, 64), 5, 12), ((769, 769), 3, 2)])
def test_a_contact_sheet_shows_every_crop_beside_its_overlay(size, count, columns):
    images = np.full((count, *size, 3), 200, np.uint8)
    labels = np.zeros((count, *size), np.uint8)
    labels[:, : size[0] // 2] = 255
    palette = np.array([(100, 0, 0), (0, 100, 0)], np.uint8)
    sheet = visualize.contact_sheet(images, labels, ("a", "b"), palette)
    width = min(size[1], 400)
    assert 2 * width * min(count, columns) <= sheet.shape[1] <= 1700
    first = sheet[22:]  # under the title
    height = round(size[0] * width / size[1])
    assert (first[2, 2] == 200).all()
    assert (first[2, width + 2] == 100).all()  # void is dark
    np.testing.assert_array_equal(first[height - 4, width + 2], (150, 100, 100))
