"""Class ids as colours, alone and over an image."""

import numpy as np
import pytest

from ccnet_jax import figures

PALETTE = np.array([(0, 0, 0), (0, 255, 0), (100, 110, 120)], np.uint8)


def plain(height, width, value):
    return np.full((height, width), value, np.uint8)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
def test_classes_have_the_palette_s_colours_and_void_is_hatched(dtype):
    label = np.repeat(np.array([0, 1, 2, 255], dtype), 16)[None].repeat(16, 0)
    image = figures.colourize(label, PALETTE)
    for i, colour in enumerate(PALETTE):
        assert (image[:, 16 * i : 16 * i + 16] == colour).all()
    void = image[:, 48:]
    np.testing.assert_array_equal(void, figures.hatching(16, 64)[:, 48:])


def test_hatching_is_two_greys_in_diagonals_and_neither_is_black():
    pattern = figures.hatching(40, 50)
    assert pattern.shape == (40, 50, 3)
    assert (pattern == pattern[..., :1]).all()
    values, counts = np.unique(pattern, return_counts=True)
    assert len(values) == 2
    assert values[0] > 60
    assert values[1] - values[0] > 80
    assert counts.min() > 0.25 * pattern.size
    np.testing.assert_array_equal(pattern[1:, :-1], pattern[:-1, 1:])
    assert (pattern[0, 1:] != pattern[0, :-1]).any()


def test_an_overlay_is_half_the_image_and_half_the_colour():
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    drawn = figures.overlay(image, plain(20, 30, 2), PALETTE)
    assert drawn.dtype == np.uint8
    np.testing.assert_allclose(drawn, image / 2 + PALETTE[2] / 2, atol=1)


@pytest.mark.parametrize("colour", [(0, 0, 0), (0, 0, 120), (20, 0, 0)])
def test_a_dark_class_is_lighter_than_half_the_image_everywhere(colour):
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    image[:5] = 0
    drawn = figures.overlay(image, plain(20, 30, 0), np.array([colour], np.uint8))
    added = drawn.astype(float) - image / 2
    luma = added @ (0.299, 0.587, 0.114)
    assert (luma > 30).all()


def test_a_dark_class_keeps_its_hue():
    drawn = figures.overlay(np.zeros((2, 3, 3), np.uint8), plain(2, 3, 0), np.array([(60, 0, 0)], np.uint8))
    red, green, blue = drawn[0, 0].astype(int)
    assert red - green == 30
    assert green == blue > 0


def test_void_is_hatched_in_an_overlay_and_a_black_class_is_not():
    image = np.zeros((16, 16, 3), np.uint8)
    void = figures.overlay(image, plain(16, 16, 255), PALETTE)
    black = figures.overlay(image, plain(16, 16, 0), PALETTE)
    assert np.ptp(void) > 40
    assert np.ptp(black) == 0
