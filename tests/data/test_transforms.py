import numpy as np
import pytest

from ccnet_jax.data import transforms
from ccnet_jax.data.transforms import MEAN_COLOUR


def coordinates(height, width):
    """An image that says where each pixel was, and its label: the row."""
    y, x = np.mgrid[:height, :width]
    return np.stack([y, x, 0 * x], -1).astype(np.uint8), y.astype(np.uint8)


def test_crop_keeps_image_and_label_together_and_reaches_every_corner():
    image, label = coordinates(20, 30)
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(400):
        part, part_label = transforms.random_crop(image, label, (17, 26), rng)
        assert part.shape == (17, 26, 3)
        np.testing.assert_array_equal(part[..., 0], part_label)
        top, left = part[0, 0, 0], part[0, 0, 1]
        np.testing.assert_array_equal(part, image[top : top + 17, left : left + 26])
        seen.add((int(top), int(left)))
    assert seen == {(y, x) for y in range(4) for x in range(5)}


def test_small_pictures_are_padded_with_void_and_the_mean_colour():
    image, label = coordinates(5, 40)
    part, part_label = transforms.random_crop(image, label, (8, 16), np.random.default_rng(0))
    np.testing.assert_array_equal(part_label[:5], part[:5, :, 0])
    assert (part_label[5:] == 255).all()
    assert (part[5:] == MEAN_COLOUR).all()


def test_flip_turns_both_over_half_of_the_time():
    image, label = coordinates(4, 6)
    label = image[..., 1]
    rng = np.random.default_rng(0)
    flipped = 0
    for _ in range(1000):
        out, out_label = transforms.random_flip(image, label, rng)
        np.testing.assert_array_equal(out[..., 1], out_label)
        flipped += int(out[0, 0, 1] == 5)
    assert 430 < flipped < 570


@pytest.mark.parametrize("ratio", [0.5, 0.77, 1.0, 1.3, 2.0])
def test_scaling_does_not_move_the_label_against_the_image(ratio):
    y, x = np.mgrid[:60, :90]
    for ramp in (y, x):
        image = np.repeat(ramp[..., None] * 2, 3, 2).astype(np.uint8)
        out, label = transforms.random_scale(
            image, ramp.astype(np.uint8), (ratio, ratio), np.random.default_rng(0)
        )
        assert label.shape == out.shape[:2] == (round(60 * ratio), round(90 * ratio))
        # the nearest label is at most half a pixel away; a quarter is rounding
        assert np.abs(out[..., 0] / 2 - label.astype(float))[2:-2, 2:-2].max() <= 0.75


def test_ratios_are_drawn_evenly_from_their_range():
    image, label = coordinates(100, 100)
    rng = np.random.default_rng(0)
    ratios = [transforms.random_scale(image, label, (0.5, 2.0), rng)[1].shape[0] / 100 for _ in range(500)]
    assert min(ratios) < 0.53
    assert max(ratios) > 1.97
    assert abs(np.mean(ratios) - 1.25) < 0.06
