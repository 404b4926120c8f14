"""The figure of what a pixel attends to."""

import numpy as np
import pytest

from ccnet_jax import figures
from ccnet_jax.figures.sizes import is_stacked, panel_size
from ccnet_jax.figures.text import text_width

TITLE, GAP = 22, 6


def luma(picture):
    return picture @ np.array([0.299, 0.587, 0.114])


def grey(height, width, value=128):
    return np.full((height, width, 3), value, np.uint8)


def panels(figure, size, count):
    """The pictures of a figure, for a picture of this size."""
    height, width = panel_size(*size)
    if is_stacked(*size):
        tops = [TITLE + i * (height + TITLE + GAP) for i in range(count)]
        return [figure[top : top + height, :width] for top in tops]
    step = max(width, 8 + text_width("2 loops, max 0.01")) + GAP  # a title may be wider than its picture
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
def test_any_picture_has_a_figure_of_readable_size_with_a_cross_in_each_panel(size):
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
