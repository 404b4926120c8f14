"""Sizes of images. Imports nothing, so that testing a network does without what decodes files."""

SMALLEST, LARGEST = 32, 2**15  # pixels a side


def scaled_size(size: tuple[int, int], box: tuple[int, int] | None, ratio: float) -> tuple[int, int]:
    """The (height, width) of an image of `size` times a ratio.

    With `box` = its (long, short) side: the largest that fits into the box times the ratio, in whole
    pixels, as mmsegmentation has it.
    """
    if box is not None:
        long, short = int(max(box) * ratio), int(min(box) * ratio)
        ratio = min(long / max(size), short / min(size))
    height, width = (max(int(side * ratio + 0.5), 1) for side in size)
    return height, width


def mmcv_size(size: tuple[int, int], ratio: float) -> tuple[int, int]:
    """The (height, width) that mmcv's `Resize(scale_factor=ratio, keep_ratio=True)` makes of an image.

    It rounds twice: the sides times the ratio are a box, into which the image is resized.
    """
    return scaled_size(size, scaled_size(size, None, ratio), 1.0)


def scipy_size(size: tuple[int, int], ratio: float) -> tuple[int, int]:
    """The (height, width) that SciPy's `ndimage.zoom` makes of an image: a half goes to the even number."""
    height, width = (max(round(side * ratio), 1) for side in size)
    return height, width
