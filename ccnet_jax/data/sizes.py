"""Sizes of pictures. Imports nothing, so that testing a network does without what decodes files."""

SMALLEST, LARGEST = 32, 2**15  # pixels a side


def scaled_size(size: tuple[int, int], box: tuple[int, int] | None, ratio: float) -> tuple[int, int]:
    """The (height, width) of a picture of `size` times a ratio.

    With `box` = its (long, short) side: the largest that fits into the box times the ratio, in whole
    pixels, as mmsegmentation has it.
    """
    if box is not None:
        long, short = int(max(box) * ratio), int(min(box) * ratio)
        ratio = min(long / max(size), short / min(size))
    height, width = (max(int(side * ratio + 0.5), 1) for side in size)
    return height, width
