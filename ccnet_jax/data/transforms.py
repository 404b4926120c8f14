"""Random scaling, cropping and flipping of a picture and its label together (NumPy and OpenCV)."""

import cv2
import numpy as np

from ccnet_jax.data.files import VOID

# ImageNet's mean colour, which both flavours subtract: padding is close to 0 after normalisation.
MEAN_COLOUR = (123, 117, 104)


def resize(image: np.ndarray, label: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Bilinear for image [H, W, 3], nearest for label [H, W]."""
    if label.shape == (height, width):
        return image, label
    image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    # NEAREST_EXACT samples at pixel centres, as INTER_LINEAR does; INTER_NEAREST is half a pixel off.
    return image, cv2.resize(label, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)


def random_scale(
    image: np.ndarray, label: np.ndarray, ratios: tuple[float, float], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Both sides times one ratio drawn evenly from `ratios` = (lowest, highest)."""
    ratio = rng.uniform(*ratios)
    height, width = (max(round(side * ratio), 1) for side in label.shape)
    return resize(image, label, height, width)


def random_crop(
    image: np.ndarray, label: np.ndarray, size: tuple[int, int], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A window of `size` = (height, width) anywhere in the picture; see `pad` for smaller pictures."""
    height, width = size
    top = rng.integers(max(label.shape[0] - height, 0) + 1)
    left = rng.integers(max(label.shape[1] - width, 0) + 1)
    window = slice(top, top + height), slice(left, left + width)
    return pad(image[window], label[window], size)


def pad(image: np.ndarray, label: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Down and right to at least `size` = (height, width), with the mean colour and with void."""
    down, right = (max(wanted - side, 0) for wanted, side in zip(size, label.shape, strict=True))
    if down or right:
        image = cv2.copyMakeBorder(image, 0, down, 0, right, cv2.BORDER_CONSTANT, value=MEAN_COLOUR)
        label = cv2.copyMakeBorder(label, 0, down, 0, right, cv2.BORDER_CONSTANT, value=VOID)
    return image, label


def random_flip(
    image: np.ndarray, label: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Left and right exchanged, every other time."""
    return (image[:, ::-1], label[:, ::-1]) if rng.integers(2) else (image, label)
