"""Figures of panels: where each picture lies, and the sizes of what is very small, large, flat or tall."""

import numpy as np
import pytest

from ccnet_jax import figures

CLASSES = ("road", "sky", "tree")
PALETTE = np.array([(255, 0, 0), (0, 255, 0), (0, 0, 255)], np.uint8)
TITLE = 22  # pixels above a picture
GAP = 6  # pixels between panels
SIZES = [(1, 1), (3, 5000), (5000, 3), (48, 80), (1024, 2048), (375, 1242), (1, 300), (769, 769)]


def random_picture(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def has_ink(canvas):
    """Whether there is dark text."""
    return (canvas.max(-1) < 100).any()


def test_comparison_holds_input_truth_prediction_and_a_legend_of_what_occurs():
    image = random_picture(40, 50)
    label, prediction = np.zeros((40, 50), np.uint8), np.full((40, 50), 1, np.uint8)
    picture = figures.comparison(image, label, prediction, CLASSES, PALETTE)
    zoom = 7  # 50 pixels become 350
    row = picture[TITLE : TITLE + 40 * zoom]
    np.testing.assert_array_equal(row[zoom // 2 :: zoom, zoom // 2 : 50 * zoom : zoom], image)
    assert (row[:, 50 * zoom + GAP : 100 * zoom + GAP] == PALETTE[0]).all()
    assert (row[:, 100 * zoom + 2 * GAP :] == PALETTE[1]).all()
    below = picture[TITLE + 40 * zoom :].reshape(-1, 3)
    for colour, wanted in zip(PALETTE, (True, True, False), strict=True):
        assert (below == colour).all(1).any() == wanted


@pytest.mark.parametrize("size", [(64, 96), (1024, 2048), (2, 3)])
def test_void_is_hatched_at_the_figure_s_scale_and_differs_from_a_black_class(size):
    label = np.zeros(size, np.uint8)
    label[:, size[1] // 2 :] = 255
    picture = figures.comparison(random_picture(*size), label, label, ("background",), PALETTE[:1] * 0)
    width = (picture.shape[1] - 2 * GAP) // 3
    truth = picture[TITLE : TITLE + 150, width + GAP :][:, :width]
    void = truth[:, -100:]
    assert set(np.unique(void)) == set(np.unique(figures.hatching(16, 16)))
    assert (truth[:, :100] == 0).all()


def test_a_prediction_figure_is_the_picture_and_each_overlay():
    image = random_picture(400, 500)
    labels = {"1 loop": np.zeros((400, 500), np.uint8), "2 loops": np.full((400, 500), 2, np.uint8)}
    figure = figures.prediction_figure(image, labels, CLASSES, PALETTE)
    row = figure[TITLE : TITLE + 400]
    np.testing.assert_array_equal(row[:, :500], image)
    for i, label in enumerate(labels.values(), 1):
        start = i * (500 + GAP)
        wanted = figures.overlay(image, label, PALETTE)
        np.testing.assert_array_equal(row[:, start : start + 500], wanted)


@pytest.mark.parametrize("size", SIZES)
def test_figures_of_any_picture_have_a_readable_size(size):
    label = np.zeros(size, np.uint8)
    label.flat[: label.size // 2] = 1
    label.flat[-1] = 255
    for figure in (
        figures.comparison(random_picture(*size), label, label, CLASSES, PALETTE),
        figures.prediction_figure(random_picture(*size), {"prediction": label}, CLASSES, PALETTE),
    ):
        assert figure.dtype == np.uint8
        assert 130 <= figure.shape[0] <= 2000
        assert 400 <= figure.shape[1] <= 2000
        assert has_ink(figure[:TITLE])
        assert has_ink(figure[-26:])


def test_wide_pictures_stand_one_below_the_other_and_others_in_a_row():
    wide = figures.side_by_side({"a": random_picture(100, 500), "b": random_picture(100, 500)})
    assert wide.shape == (2 * (100 + TITLE) + GAP, 500, 3)
    for size in ((200, 400), (400, 200)):
        row = figures.side_by_side({"a": random_picture(*size), "b": random_picture(*size)})
        assert row.shape == (size[0] + TITLE, max(2 * size[1] + GAP, 400), 3)


def test_a_large_picture_is_averaged():
    image = random_picture(1280, 1280)
    row = figures.side_by_side({"a": image})
    means = image.reshape(640, 2, 640, 2, 3).mean((1, 3))
    np.testing.assert_allclose(row[TITLE:], means, atol=1)


@pytest.mark.parametrize("size", [(5000, 3), (40, 50), (3, 5000)])
@pytest.mark.parametrize("title", ["a title of many words that goes on and on " * 4, "W" * 200])
def test_titles_are_never_cut_off(size, title):
    figure = figures.side_by_side({"input": random_picture(*size), title: random_picture(*size)})
    assert figure.shape[1] <= 1300
    above = figures.side_by_side({title: np.full((*size, 3), 255, np.uint8)})
    assert has_ink(above)
    assert (above[:, -4:] == 255).all()


def test_150_classes_with_long_names_stay_inside_the_figure():
    names = tuple(f"class {i} with a name of very many words" for i in range(150))
    palette = np.random.default_rng(0).integers(0, 256, (150, 3), np.uint8)
    label = np.arange(1500).reshape(30, 50).astype(np.int64) % 150
    figure = figures.comparison(random_picture(30, 50), label, label, names, palette)
    assert figure.shape[0] <= 2000
    assert (figure[-3:] == 255).all()
