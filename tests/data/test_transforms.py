"""Each transform against an independent reference, image and label together, and the draws' statistics."""

import colorsys

import cv2
import numpy as np
import pytest

from ccnet_jax.data import transforms
from ccnet_jax.data.transforms import MEAN_COLOUR
from tests.miniatures import scene

pytestmark = pytest.mark.slow


def coordinates(height, width):
    """An image that says where each pixel was, and its label: the row."""
    y, x = np.mgrid[:height, :width]
    return np.stack([y, x, 0 * x], -1).astype(np.uint8), y.astype(np.uint8)


def bilinear(image, size):
    """The whole image resized in float64, half-pixel centres, edges repeated."""

    def taps(n, m):
        position = np.clip((np.arange(n) + 0.5) * m / n - 0.5, 0, m - 1)
        low = np.floor(position).astype(int)
        return low, np.minimum(low + 1, m - 1), position - low

    image = image.astype(np.float64)
    low, high, part = taps(size[0], image.shape[0])
    image = image[low] * (1 - part)[:, None, None] + image[high] * part[:, None, None]
    low, high, part = taps(size[1], image.shape[1])
    return image[:, low] * (1 - part)[:, None] + image[:, high] * part[:, None]


SIZES = [(60, 90), (30, 45), (46, 69), (78, 117), (120, 180), (61, 77), (7, 200)]


@pytest.mark.parametrize("size", SIZES)
def test_resized_windows_equal_the_window_of_the_whole_resized_image(size):
    rng = np.random.default_rng(0)
    image = cv2.GaussianBlur(rng.integers(0, 256, (60, 90, 3), np.uint8), (0, 0), 1)
    label = rng.integers(0, 20, (60, 90)).astype(np.uint8)
    whole = bilinear(image, size)
    rows = np.floor((np.arange(size[0]) + 0.5) * 60 / size[0] + 1e-9).astype(int)
    columns = np.floor((np.arange(size[1]) + 0.5) * 90 / size[1] + 1e-9).astype(int)
    for top, left, crop in ((0, 0, size), (0, 0, (32, 32)), (size[0] // 3, size[1] // 2, (20, 40))):
        here = slice(top, top + crop[0]), slice(left, left + crop[1])
        window = transforms.image_window(image, size, top, left, crop)
        assert window.dtype == np.uint8
        assert np.abs(window - whole[here]).max() <= 0.51
        np.testing.assert_array_equal(
            transforms.label_window(label, size, top, left, crop), label[rows][:, columns][here]
        )


@pytest.mark.parametrize("size", [(60, 90), (30, 45), (120, 180), (47, 71)])
def test_whole_resizing_is_opencvs(size):
    image, label = scene(0, 60, 90)
    mine = transforms.image_window(image, size, 0, 0, size).astype(int)
    assert np.abs(mine - cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)).max() <= 1
    theirs = cv2.resize(label, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    assert (transforms.label_window(label, size, 0, 0, size) == theirs).mean() > 0.98


@pytest.mark.parametrize("ratio", [0.5, 0.77, 1.0, 1.3, 2.0])
def test_label_and_image_never_drift_apart(ratio):
    y, x = np.mgrid[:60, :90]
    size = (round(60 * ratio), round(90 * ratio))
    rng = np.random.default_rng(0)
    for ramp in (y, x):
        image = np.repeat(ramp[..., None] * 2, 3, 2).astype(np.uint8)
        for _ in range(5):
            out, label = transforms.random_window(image, ramp.astype(np.uint8), size, (24, 32), 1, rng)
            out, label = transforms.random_flip(out, label, rng)
            assert label.shape == out.shape[:2] == (24, 32)
            # the nearest label is at most half a pixel away; a quarter is rounding
            assert np.abs(out[..., 0] / 2 - label.astype(float))[2:-2, 2:-2].max() <= 0.75


def test_crop_keeps_image_and_label_together_and_reaches_every_corner():
    image, label = coordinates(20, 30)
    rng = np.random.default_rng(0)
    places = np.zeros((4, 5), int)
    for _ in range(2000):
        part, part_label = transforms.random_window(image, label, (20, 30), (17, 26), 1, rng)
        assert part.shape == (17, 26, 3)
        np.testing.assert_array_equal(part[..., 0], part_label)
        top, left = part[0, 0, 0], part[0, 0, 1]
        np.testing.assert_array_equal(part, image[top : top + 17, left : left + 26])
        places[top, left] += 1
    assert places.min() > 60  # 100 each where all places are equally likely
    assert places.max() < 140


def test_small_images_are_padded_with_void_and_the_mean_colour():
    image, label = coordinates(5, 40)
    part, part_label = transforms.random_window(image, label, (5, 40), (8, 16), 1, np.random.default_rng(0))
    assert part.shape == (5, 16, 3)
    part, part_label = transforms.pad(part, part_label, (8, 16))
    np.testing.assert_array_equal(part_label[:5], part[:5, :, 0])
    assert (part_label[5:] == 255).all()
    assert (part[5:] == MEAN_COLOUR).all()


def test_crops_of_nearly_one_class_are_avoided():
    label = np.zeros((40, 40), np.uint8)
    label[:, 30:] = 1
    label[30:, :] = 255  # void counts nowhere
    image = np.zeros((40, 40, 3), np.uint8)
    rng = np.random.default_rng(0)

    def tally(limit):
        """How many crops are of (nearly) one class, and how many of those or of void alone."""
        single = void = 0
        for _ in range(1500):
            _, part = transforms.random_window(image, label, (40, 40), (10, 10), limit, rng)
            counts = np.bincount(part[part != 255], minlength=2)
            single += counts.sum() > 0 and counts.max() >= 0.75 * counts.sum()
            void += counts.sum() == 0
        return single / 1500, (single + void) / 1500

    single, rejected = tally(1.0)
    assert 0.6 < single < rejected < 0.95
    expected = rejected**9 * single  # nine tries fail, and the tenth is taken as it is
    assert abs(tally(0.75)[0] - expected) < 4 * np.sqrt(expected / 1500) + 0.02


def test_an_image_of_one_class_is_still_cropped():
    image, label = np.zeros((40, 40, 3), np.uint8), np.zeros((40, 40), np.uint8)
    part, part_label = transforms.random_window(
        image, label, (40, 40), (8, 8), 0.75, np.random.default_rng(0)
    )
    assert part.shape == (8, 8, 3)
    assert part_label.shape == (8, 8)


def test_flip_turns_both_over_half_of_the_time():
    image, _ = coordinates(4, 6)
    label = image[..., 1].copy()
    rng = np.random.default_rng(0)
    flipped = 0
    for _ in range(1000):
        out, out_label = transforms.random_flip(image, label, rng)
        np.testing.assert_array_equal(out[..., 1], out_label)
        flipped += int(out[0, 0, 1] == 5)
        assert out[0, 0, 1] in (0, 5)
    assert 430 < flipped < 570


def test_ratios_are_drawn_evenly_from_their_range():
    rng = np.random.default_rng(0)
    sizes = [transforms.random_size((1000, 2000), None, (0.5, 2.0), None, rng) for _ in range(3000)]
    ratios = np.array([height / 1000 for height, _ in sizes])
    assert all(width == pytest.approx(2 * height, abs=1) for height, width in sizes)
    counts, _ = np.histogram(ratios, bins=10, range=(0.5, 2.0))
    assert counts.sum() == 3000
    assert np.abs(counts - 300).max() < 60


def test_short_sides_are_drawn_evenly_from_their_set():
    rng = np.random.default_rng(0)
    sides = (300, 375, 450, 525, 600)
    sizes = [transforms.random_size((683, 512), None, None, sides, rng) for _ in range(1000)]
    for side in sides:
        assert 150 < sum(width == side for _, width in sizes) < 250
    assert all(height == int(683 * width / 512 + 0.5) for height, width in sizes)


@pytest.mark.parametrize(
    ("size", "box", "fitted"),
    [
        ((1024, 2048), (2049, 1025), (1025, 2049)),  # mmsegmentation's Cityscapes at 769x769
        ((683, 512), (2048, 512), (683, 512)),
        ((512, 683), (2048, 512), (512, 683)),
        ((375, 500), (2048, 512), (512, 683)),
        ((100, 1000), (2048, 512), (205, 2048)),  # the long side is the limit
    ],
)
def test_fitting_keeps_the_shape(size, box, fitted):
    rng = np.random.default_rng(0)
    height, width = transforms.random_size(size, box, None, None, rng)
    assert abs(height - fitted[0]) <= 1
    assert abs(width - fitted[1]) <= 1
    doubled = transforms.random_size(size, box, (2.0, 2.0), None, rng)
    assert abs(doubled[0] - 2 * fitted[0]) <= 2


class Script(np.random.Generator):
    """A random generator whose draws are given: those of `random_distortion`, in its order."""

    def __init__(self, *draws):
        super().__init__(np.random.PCG64(0))
        self.draws = list(draws)

    def integers(self, *_):
        return self.draws.pop(0)

    uniform = integers


def distorted(image, brightness=None, contrast=None, first=True, saturation=None, hue=None):
    draws = []
    for change in (brightness, contrast):
        draws += [0] if change is None else [1, change]
    draws += [int(first)]
    for change in (saturation, hue):
        draws += [0] if change is None else [1, change]
    script = Script(*draws)
    out = transforms.random_distortion(image, script)
    assert not script.draws
    return out


def test_brightness_and_contrast_are_exact():
    image = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, 2)
    values = image.astype(float)

    def rounded(x):
        return np.clip(np.rint(x), 0, 255)

    np.testing.assert_array_equal(distorted(image), image)
    np.testing.assert_array_equal(distorted(image, brightness=-20.4), rounded(values - 20.4))
    np.testing.assert_array_equal(distorted(image, contrast=1.3), rounded(values * 1.3))
    np.testing.assert_array_equal(distorted(image, contrast=0.6, first=False), rounded(values * 0.6))
    both = rounded(rounded(values + 31) * 1.5)
    np.testing.assert_array_equal(distorted(image, brightness=31, contrast=1.5), both)
    np.testing.assert_array_equal(distorted(image, brightness=31, contrast=1.5, first=False), both)


@pytest.mark.parametrize(("saturation", "hue"), [(0.5, None), (1.5, None), (None, 17), (None, -18), (1.2, 9)])
def test_saturation_and_hue_agree_with_the_standard_librarys_hsv(saturation, hue):
    image = np.random.default_rng(0).integers(0, 256, (12, 12, 3), np.uint8)
    out = distorted(image, saturation=saturation, hue=hue)
    for before, after in zip(image.reshape(-1, 3), out.reshape(-1, 3), strict=True):
        h, s, v = colorsys.rgb_to_hsv(*before / 255)
        wanted = colorsys.hsv_to_rgb((h + (hue or 0) / 180) % 1, min(s * (saturation or 1), 1), v)
        assert np.abs(np.array(wanted) * 255 - after).max() <= 5  # 8-bit hue has steps of 2 degrees


def test_contrast_after_saturation_is_another_image_than_before():
    image = np.random.default_rng(0).integers(0, 256, (12, 12, 3), np.uint8)
    before = distorted(image, contrast=1.5, saturation=1.4, first=True)
    after = distorted(image, contrast=1.5, saturation=1.4, first=False)
    assert (before != after).any()


def test_each_distortion_happens_every_other_time_and_in_its_range():
    grey = np.full((1, 1, 3), 128, np.uint8)
    rng = np.random.default_rng(0)
    changed = np.array([int(transforms.random_distortion(grey, rng)[0, 0, 0]) for _ in range(4000)])
    # grey has no saturation and no hue: what is left is brightness and contrast, neither in a quarter
    assert 0.22 < (changed == 128).mean() < 0.28
    assert (128 - 32) // 2 <= changed.min() < 60
    assert 225 < changed.max() <= (128 + 32) * 1.5

    colour = np.array([[[200, 100, 100]]], np.uint8)
    hues = [
        cv2.cvtColor(transforms.random_distortion(colour, rng), cv2.COLOR_RGB2HSV)[0, 0, 0]
        for _ in range(2000)
    ]
    turned = (np.array(hues, int) + 90) % 180 - 90
    assert turned.min() >= -18 - 6  # what 8-bit HSV loses on a dark pixel
    assert turned.max() <= 17 + 6
    assert 0.42 < (np.abs(turned) > 1).mean() < 0.52


def test_distortion_leaves_its_input_alone():
    image = np.random.default_rng(0).integers(0, 256, (12, 12, 3), np.uint8)
    copy, rng = image.copy(), np.random.default_rng(1)
    for _ in range(20):
        transforms.random_distortion(image, rng)
    np.testing.assert_array_equal(image, copy)
