"""Random resizing, cropping, flipping and colour distortion of an image and its label (NumPy and OpenCV).

Resizing and cropping are one step: of the resized image only the window that the crop keeps is ever
computed, and of a `TiledImage` only the tiles are decoded which that window needs. Sampling positions are
those of half-pixel centres: pixel i of n resized from m lies at (i + 1/2) m / n - 1/2.
"""

import math
from collections.abc import Sequence

import cv2
import numpy as np

from ccnet_jax.common.labels import VOID
from ccnet_jax.data.sizes import scaled_size
from ccnet_jax.data.tiles import TiledImage

# ImageNet's mean colour, which both flavours subtract: padding is close to 0 after normalisation.
MEAN_COLOUR = (123, 117, 104)

Pixels = np.ndarray | TiledImage


def random_size(
    size: tuple[int, int],
    box: tuple[int, int] | None,
    scale: tuple[float, float] | None,
    short_sides: Sequence[int] | None,
    rng: np.random.Generator,
) -> tuple[int, int]:
    """The (height, width) to which an image of `size` = (height, width) is resized.

    Args:
      size: of the image.
      box: (long, short) sides of a box into which it is resized, or None.
      scale: (lowest, highest) of an evenly drawn ratio, or None.
      short_sides: lengths of the shorter side, one of which is drawn and replaces the box, or None.
      rng: of the draws.
    """
    ratio = 1.0 if scale is None else rng.uniform(*scale)
    if short_sides is not None:
        return scaled_size(size, None, ratio * rng.choice(short_sides) / min(size))
    return scaled_size(size, box, ratio)


def possible_sizes(
    size: tuple[int, int],
    box: tuple[int, int] | None,
    scale: tuple[float, float] | None,
    short_sides: Sequence[int] | None,
) -> list[tuple[int, int]]:
    """The smallest and the largest (height, width) that `random_size` may give, with the same arguments."""
    ratios = scale or (1.0, 1.0)
    if short_sides is not None:
        lengths = (ratios[0] * min(short_sides), ratios[1] * max(short_sides))
        return [scaled_size(size, None, length / min(size)) for length in lengths]
    return [scaled_size(size, box, ratio) for ratio in ratios]


def image_window(
    image: Pixels, size: tuple[int, int], top: int, left: int, crop: tuple[int, int]
) -> np.ndarray:
    """What is in a window of the image after resizing it bilinearly, correctly rounded.

    Args:
      image: uint8 [H, W, 3].
      size: (height, width) to which the whole is resized.
      top, left: the window's first row and column.
      crop: (height, width) of the window; it ends earlier where the image does.
    """
    height, width = min(crop[0], size[0] - top), min(crop[1], size[1] - left)
    if size == image.shape[:2]:
        rows, columns = slice(top, top + height), slice(left, left + width)
        return _decode(image, rows, columns)[rows, columns]
    down, across = image.shape[0] / size[0], image.shape[1] / size[1]
    to_source = np.array(
        [[across, 0, (left + 0.5) * across - 0.5], [0, down, (top + 0.5) * down - 0.5]], np.float64
    )
    pixels = _decode(image, _neighbours(top, height, down), _neighbours(left, width, across))
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(pixels, to_source, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE)


def _decode(pixels: Pixels, rows: slice, columns: slice) -> np.ndarray:
    """The whole image, in which these rows and columns have their values."""
    return pixels if isinstance(pixels, np.ndarray) else pixels.decode(rows, columns)


def _neighbours(start: int, count: int, ratio: float) -> slice:
    """The pixels between which bilinear interpolation places `count` pixels from `start` on.

    On both sides one pixel more: OpenCV rounds positions, as to 1/32 pixel.
    """
    first, last = ((i + 0.5) * ratio - 0.5 for i in (start, start + count - 1))
    return slice(max(math.floor(first) - 1, 0), math.floor(last) + 3)


def label_window(
    label: Pixels, size: tuple[int, int], top: int, left: int, crop: tuple[int, int]
) -> np.ndarray:
    """As `image_window`, of the label [H, W]: each value is that of the pixel in which its position lies."""

    def sources(start: int, count: int, resized: int, side: int) -> np.ndarray:
        """floor((i + 1/2) side / resized), in integers."""
        positions = np.arange(start, min(start + count, resized))
        return (2 * positions + 1) * side // (2 * resized)

    rows = sources(top, crop[0], size[0], label.shape[0])
    columns = sources(left, crop[1], size[1], label.shape[1])
    pixels = _decode(label, slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    return pixels.take(rows, 0).take(columns, 1)


def random_window(
    image: Pixels,
    label: Pixels,
    size: tuple[int, int],
    crop: tuple[int, int],
    cat_max_ratio: float,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """The pair resized to `size`, cropped to at most `crop`, both (height, width), at a random place.

    Up to ten places are tried until the window holds two classes or more, of which none covers
    `cat_max_ratio` (0 to 1) or more of its labelled pixels; 1 takes the first place. The label alone says
    which place it is: of the image only that window is read.
    """
    for _ in range(10):
        top = int(rng.integers(max(size[0] - crop[0], 0) + 1))
        left = int(rng.integers(max(size[1] - crop[1], 0) + 1))
        window = label_window(label, size, top, left, crop)
        if cat_max_ratio >= 1:
            break
        counts = cv2.calcHist([window], [0], None, [256], [0, 256])[:VOID]
        if np.count_nonzero(counts) > 1 and np.max(counts) < cat_max_ratio * counts.sum():
            break
    return image_window(image, size, top, left, crop), window


def random_flip(
    image: np.ndarray, label: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Left and right exchanged, every other time."""
    return (cv2.flip(image, 1), cv2.flip(label, 1)) if rng.integers(2) else (image, label)


def random_distortion(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The photometric distortion of SSD as segmentation recipes use it, on RGB uint8 [H, W, 3].

    Each of these every other time: brightness changed by -32 to 32; contrast times 0.5 to 1.5, before
    or after what follows; saturation times 0.5 to 1.5; hue turned by -18 to 17 steps of 2 degrees.
    Results are rounded to whole numbers and clipped to 0 to 255 after each.
    """
    values = np.arange(256.0)
    brightness = rng.uniform(-32, 32) if rng.integers(2) else 0.0
    contrast = rng.uniform(0.5, 1.5) if rng.integers(2) else 1.0
    contrast_first = bool(rng.integers(2))
    saturation = rng.uniform(0.5, 1.5) if rng.integers(2) else 1.0
    hue = int(rng.integers(-18, 18)) if rng.integers(2) else 0

    light = _to_uint8(values + brightness)
    if contrast_first:
        light = _to_uint8(light * contrast)
    if brightness or (contrast_first and contrast != 1):
        image = cv2.LUT(image, light)
    if saturation != 1 or hue:
        turned = (np.arange(256) + hue) % 180  # OpenCV's 8-bit hue is 0 to 179, in steps of 2 degrees
        table = np.stack([turned.astype(np.uint8), _to_uint8(values * saturation), _to_uint8(values)], -1)
        image = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
        image = cv2.cvtColor(cv2.LUT(image, table[:, None]), cv2.COLOR_HSV2RGB)
    if contrast != 1 and not contrast_first:
        image = cv2.LUT(image, _to_uint8(values * contrast))
    return image


def _to_uint8(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def pad(image: np.ndarray, label: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Down and right to at least `size` = (height, width), with the mean colour and with void."""
    down, right = (max(wanted - side, 0) for wanted, side in zip(size, label.shape, strict=True))
    if down or right:
        image = cv2.copyMakeBorder(image, 0, down, 0, right, cv2.BORDER_CONSTANT, value=MEAN_COLOUR)
        label = cv2.copyMakeBorder(label, 0, down, 0, right, cv2.BORDER_CONSTANT, value=VOID)
    return image, label
