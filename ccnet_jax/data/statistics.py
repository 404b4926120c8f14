"""Which images are counted, and how often classes and sizes occur in labels, as text."""

import collections

import numpy as np


def evenly_spread(count: int, limit: int) -> list[int]:
    """At most `limit` of the numbers from 0 to count - 1, evenly spread; 0 is all."""
    return np.linspace(0, count - 1, min(limit, count) if limit else count).astype(int).tolist()


def sizes_text(sizes: collections.Counter[tuple[int, int]]) -> str:
    """The sizes of images, {(height, width): images}, the commonest first, a line each."""
    lines = ["sizes (width x height):"]
    lines += [f"  {width} x {height}  {number}" for (height, width), number in sizes.most_common(8)]
    if len(sizes) > 8:
        heights, widths = zip(*sizes, strict=True)
        lines.append(
            f"  and {len(sizes) - 8} more, from {min(widths)} to {max(widths)} wide and {min(heights)} to "
            f"{max(heights)} high"
        )
    return "\n".join(lines)


def class_table(names: tuple[str, ...], pixels: np.ndarray) -> str:
    """The fraction of each class among the labelled pixels, and that of void among all.

    Args:
      names: of the classes.
      pixels: [len(names) + 1] counts, the last is void's.
    """
    wide = max(map(len, (*names, "class")))
    lines = [f"{'class':{wide}}  % of labelled pixels"]
    labelled = max(pixels[:-1].sum(), 1)
    for name, number in zip(names, pixels[:-1], strict=True):
        fraction = 100 * number / labelled
        lines.append(f"{name:{wide}}  {fraction:7.3f}" if number else f"{name:{wide}}    never")
    lines.append(f"void: {100 * pixels[-1] / max(pixels.sum(), 1):.1f} % of all pixels")
    return "\n".join(lines)
