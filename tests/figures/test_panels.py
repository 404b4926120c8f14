"""Whole figures: what lies where, and the sizes of what is very small, large, flat or tall."""

import numpy as np
import pytest

from ccnet_jax import figures
from ccnet_jax.figures.canvas import is_stacked, panel_size, text_width

pytestmark = pytest.mark.slow

CLASSES = ("road", "sky", "tree")
PALETTE = np.array([(255, 0, 0), (0, 255, 0), (0, 0, 255)], np.uint8)
TITLE = 22  # pixels above an image
GAP = 6  # pixels between panels
SIZES = [(1, 1), (3, 5000), (5000, 3), (48, 80), (1024, 2048), (375, 1242), (1, 300), (769, 769)]
NAMES = ("car", "a very long name of a class that is wider than the image is by far, whatever it means")
GREEN_AND_RED = np.array([[0, 200, 0], [200, 0, 0]], np.uint8)
DARK = np.array([(100, 0, 0), (0, 120, 0)], np.uint8)


def random_image(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def has_ink(canvas):
    """Whether there is dark text."""
    return (canvas.max(-1) < 100).any()


def test_comparison_holds_input_truth_prediction_and_a_legend_of_what_occurs():
    image = random_image(40, 50)
    label, prediction = np.zeros((40, 50), np.uint8), np.full((40, 50), 1, np.uint8)
    drawn = figures.comparison(image, label, prediction, CLASSES, PALETTE)
    zoom = 7  # 50 pixels become 350
    row = drawn[TITLE : TITLE + 40 * zoom]
    np.testing.assert_array_equal(row[zoom // 2 :: zoom, zoom // 2 : 50 * zoom : zoom], image)
    assert (row[:, 50 * zoom + GAP : 100 * zoom + GAP] == PALETTE[0]).all()
    assert (row[:, 100 * zoom + 2 * GAP :] == PALETTE[1]).all()
    below = drawn[TITLE + 40 * zoom :].reshape(-1, 3)
    for colour, wanted in zip(PALETTE, (True, True, False), strict=True):
        assert (below == colour).all(1).any() == wanted


@pytest.mark.parametrize("size", [(64, 96), (1024, 2048), (2, 3)])
def test_void_is_hatched_at_the_figure_s_scale_and_differs_from_a_black_class(size):
    label = np.zeros(size, np.uint8)
    label[:, size[1] // 2 :] = 255
    image = figures.comparison(random_image(*size), label, label, ("background",), PALETTE[:1] * 0)
    width = (image.shape[1] - 2 * GAP) // 3
    truth = image[TITLE : TITLE + 150, width + GAP :][:, :width]
    void = truth[:, -100:]
    assert set(np.unique(void)) == set(np.unique(figures.hatching(16, 16)))
    assert (truth[:, :100] == 0).all()


def test_a_prediction_figure_is_the_image_and_each_overlay():
    image = random_image(400, 500)
    labels = {"1 loop": np.zeros((400, 500), np.uint8), "2 loops": np.full((400, 500), 2, np.uint8)}
    figure = figures.prediction_figure(image, labels, CLASSES, PALETTE)
    row = figure[TITLE : TITLE + 400]
    np.testing.assert_array_equal(row[:, :500], image)
    for i, label in enumerate(labels.values(), 1):
        start = i * (500 + GAP)
        wanted = figures.overlay(image, label, PALETTE)
        np.testing.assert_array_equal(row[:, start : start + 500], wanted)


@pytest.mark.parametrize("size", SIZES)
def test_figures_of_any_image_have_a_readable_size(size):
    label = np.zeros(size, np.uint8)
    label.flat[: label.size // 2] = 1
    label.flat[-1] = 255
    for figure in (
        figures.comparison(random_image(*size), label, label, CLASSES, PALETTE),
        figures.prediction_figure(random_image(*size), {"prediction": label}, CLASSES, PALETTE),
    ):
        assert figure.dtype == np.uint8
        assert 130 <= figure.shape[0] <= 2000
        assert 400 <= figure.shape[1] <= 2000
        assert has_ink(figure[:TITLE])
        assert has_ink(figure[-26:])


def test_wide_images_stand_one_below_the_other_and_others_in_a_row():
    wide = figures.side_by_side({"a": random_image(100, 500), "b": random_image(100, 500)})
    assert wide.shape == (2 * (100 + TITLE) + GAP, 500, 3)
    for size in ((200, 400), (400, 200)):
        row = figures.side_by_side({"a": random_image(*size), "b": random_image(*size)})
        assert row.shape == (size[0] + TITLE, max(2 * size[1] + GAP, 400), 3)


def test_a_large_image_is_averaged():
    image = random_image(1280, 1280)
    row = figures.side_by_side({"a": image})
    means = image.reshape(640, 2, 640, 2, 3).mean((1, 3))
    np.testing.assert_allclose(row[TITLE:], means, atol=1)


@pytest.mark.parametrize("size", [(5000, 3), (40, 50), (3, 5000)])
@pytest.mark.parametrize("title", ["a title of many words that goes on and on " * 4, "W" * 200])
def test_titles_are_never_cut_off(size, title):
    figure = figures.side_by_side({"input": random_image(*size), title: random_image(*size)})
    assert figure.shape[1] <= 1300
    above = figures.side_by_side({title: np.full((*size, 3), 255, np.uint8)})
    assert has_ink(above)
    assert (above[:, -4:] == 255).all()


def test_150_classes_with_long_names_stay_inside_the_figure():
    names = tuple(f"class {i} with a name of very many words" for i in range(150))
    palette = np.random.default_rng(0).integers(0, 256, (150, 3), np.uint8)
    label = np.arange(1500).reshape(30, 50).astype(np.int64) % 150
    figure = figures.comparison(random_image(30, 50), label, label, names, palette)
    assert figure.shape[0] <= 2000
    assert (figure[-3:] == 255).all()


def occurs(canvas, colour):
    return (canvas.reshape(-1, 3) == colour).all(1).any()


def test_a_legend_holds_what_occurs_and_nothing_else():
    palette = np.array([(255, 0, 0), (0, 255, 0), (0, 0, 255)], np.uint8)
    canvas = figures.legend(("road", "sky", "tree"), palette, 400, np.array([0, 2]))
    assert [occurs(canvas, colour) for colour in palette] == [True, False, True]


def test_void_is_hatched_in_a_legend_beside_a_black_class():
    palette = np.zeros((1, 3), np.uint8)
    black = figures.legend(("background",), palette, 400, np.array([0]))
    void = figures.legend(("background",), palette, 400, np.array([255]))
    both = figures.legend(("background",), palette, 400, np.array([0, 255]))
    assert (black[4:20, 4:20] == 0).all()
    np.testing.assert_array_equal(void[4:20, 4:20], figures.hatching(16, 16))
    np.testing.assert_array_equal(both[4:20, 4:20], black[4:20, 4:20])
    starts = [x for x in range(4, 380) if (both[4:20, x : x + 16] == figures.hatching(16, 16)).all()]
    assert len(starts) == 1


@pytest.mark.parametrize("width", [60, 400, 2000])
def test_150_long_names_stay_inside_a_legend(width):
    names = tuple(f"class {i} with a name of very many words, and its synonyms" for i in range(150))
    palette = np.random.default_rng(0).integers(0, 128, (150, 3), np.uint8)
    canvas = figures.legend(names, palette, width, np.arange(150))
    assert canvas.shape[1] == width
    assert (canvas[:, -3:] == 255).all()  # nothing is cut off at the right,
    assert (canvas[-3:] == 255).all()  # or at the bottom
    assert all(occurs(canvas, colour) for colour in palette)


def test_where_nothing_occurs_a_legend_is_empty():
    canvas = figures.legend(("road",), np.zeros((1, 3), np.uint8), 400, np.array([], np.uint8))
    assert canvas.shape[1] == 400
    assert (canvas == 255).all()


@pytest.mark.parametrize(("size", "count", "columns"), [((96, 128), 7, 6), ((769, 769), 3, 2)])
def test_a_contact_sheet_shows_every_crop_beside_its_overlay(size, count, columns):
    images = np.full((count, *size, 3), 200, np.uint8)
    labels = np.ones((count, *size), np.uint8)
    labels[:, : size[0] // 2] = 255
    sheet = figures.contact_sheet(images, labels, ("a", "b"), DARK)
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
        np.zeros((2, *size, 3), np.uint8), np.zeros((2, *size), np.uint8), ("a",), DARK
    )
    assert 60 <= sheet.shape[0] <= 1000
    assert 400 <= sheet.shape[1] <= 1700


def luma(image):
    return image @ np.array([0.299, 0.587, 0.114])


def grey(height, width, value=128):
    return np.full((height, width, 3), value, np.uint8)


def panels(figure, size, count):
    """The images of a figure, for an image of this size."""
    height, width = panel_size(*size)
    if is_stacked(*size):
        tops = [TITLE + i * (height + TITLE + GAP) for i in range(count)]
        return [figure[top : top + height, :width] for top in tops]
    step = max(width, 8 + text_width("2 loops, max 0.01")) + GAP  # a title may be wider than its image
    return [figure[TITLE : TITLE + height, i * step : i * step + width] for i in range(count)]


def is_marked(panel, row, column):
    """Whether a white cross with a black outline lies there, and nothing white or black elsewhere."""
    white, black = (panel == 255).all(-1), (panel == 0).all(-1)
    near = np.zeros(panel.shape[:2], bool)
    reach = 5 + max(15, min(panel.shape[:2]) // 12) // 2
    near[max(row - reach, 0) : row + reach + 1, max(column - reach, 0) : column + reach + 1] = True
    return white[row, column] and white.sum() > 20 and black[near].sum() > 20 and not white[~near].any()


@pytest.mark.parametrize("value", [0, 128, 254])
def test_the_cross_is_white_and_outlined_in_black_in_every_panel(value):
    figure = figures.attention_figure(
        grey(320, 400, value), np.full((2, 40, 50), 0.001, np.float32), (100, 250)
    )
    for panel in panels(figure, (320, 400), 3):
        assert is_marked(panel, 100, 250)


@pytest.mark.parametrize("point", [(0, 0), (39, 55), (0, 55), (20, 28)])
def test_the_cross_is_where_the_point_is(point):
    image, zoom = grey(40, 56, 90), 6  # 56 pixels become 336
    figure = figures.attention_figure(image, np.zeros((1, 5, 7), np.float32), point)
    for panel in panels(figure, (40, 56), 2):
        assert is_marked(panel, *(at * zoom + zoom // 2 for at in point))


def test_lightness_grows_with_the_root_of_the_weight():
    maps = np.zeros((2, 4, 5), np.float32)
    maps[0, 1] = np.array([0, 1, 4, 9, 16]) / 30
    maps[1] = 1 / 20
    figure = figures.attention_figure(grey(320, 400), maps, (319, 399))
    _, one, two = panels(figure, (320, 400), 3)
    steps = luma(one[120, 40::80])
    assert (np.diff(steps) > 15).all()
    assert np.ptp(np.diff(steps)) < 25  # evenly
    assert luma(one[10, 10]) == pytest.approx(steps[0])
    np.testing.assert_array_equal(two[10, 10], one[120, 360])  # the largest of its own panel


def test_the_scale_s_ends_are_the_colours_of_nothing_and_of_the_largest_weight():
    maps = np.zeros((1, 4, 5), np.float32)
    maps[0, 0, 0] = 0.3
    figure = figures.attention_figure(grey(320, 400), maps, (200, 200))
    _, one = panels(figure, (320, 400), 2)
    below = figure[TITLE + 320 :].reshape(-1, 3)
    assert (below == one[310, 10]).all(1).any()
    assert (below == one[10, 10]).all(1).any()


@pytest.mark.parametrize("size", [(1, 1), (3, 5000), (5000, 3), (1024, 2048), (375, 1242)])
def test_any_image_has_a_figure_of_readable_size_with_a_cross_in_each_panel(size):
    maps = np.full((2, -(-size[0] // 8), -(-size[1] // 8)), 0.01, np.float32)
    figure = figures.attention_figure(grey(*size), maps, (size[0] // 2, size[1] // 2))
    assert 150 <= figure.shape[0] <= 1400
    assert 400 <= figure.shape[1] <= 2000
    height, width = panel_size(*size)
    ratios = height / size[0], width / size[1]
    row, column = (int((side // 2 + 0.5) * ratio) for side, ratio in zip(size, ratios, strict=True))
    for panel in panels(figure, size, 3):
        assert is_marked(panel, row, column)


def test_maps_of_zeros_are_drawn():
    figure = figures.attention_figure(grey(320, 400), np.zeros((1, 4, 5), np.float32), (100, 100))
    assert np.ptp(panels(figure, (320, 400), 2)[1][200:]) < 60


def overlay_of(boxes, labels, scores=None):
    image = np.full((80, 120, 3), 100, np.uint8)
    masks = np.zeros((len(boxes), *image.shape[:2]), np.uint8)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True):
        mask[y0:y1, x0:x1] = 1
    return figures.instance_overlay(
        image, np.array(boxes).reshape(-1, 4), np.array(labels, int), masks, NAMES, GREEN_AND_RED, scores
    )


def test_masks_have_their_classes_colours_and_the_rest_is_the_image():
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
def test_names_stay_inside_the_image(box, label):
    drawn = overlay_of([box], [label], scores=np.array([0.5]))
    assert drawn.shape == (240, 360, 3)


def test_an_image_without_instances_is_itself():
    np.testing.assert_array_equal(overlay_of([], []), np.full((240, 360, 3), 100, np.uint8))


def test_overlays_stand_under_their_titles():
    drawn = overlay_of([(30, 40, 60, 70)], [0])
    figure = figures.instance_comparison({"truth": drawn, "prediction": drawn})
    assert figure.shape[0] > 240
    assert figure.shape[1] >= 720
