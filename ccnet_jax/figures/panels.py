"""Figures of several panels: pictures of one size under their titles, above a legend."""

import numpy as np

from ccnet_jax.figures.colours import colourize, overlay
from ccnet_jax.figures.legends import legend
from ccnet_jax.figures.sizes import is_stacked, padded, panel_size, resized, resized_label
from ccnet_jax.figures.text import text_block, text_width, wrapped

LEAST_WIDTH = 400  # pixels of a figure: room for a legend
_LONGEST_TITLE = 320  # pixels of a title's line
_GAP = 6  # pixels between panels


def comparison(
    image: np.ndarray,
    label: np.ndarray,
    prediction: np.ndarray,
    classes: tuple[str, ...],
    palette: np.ndarray,
) -> np.ndarray:
    """Input, truth and prediction above the legend of the classes that occur.

    Args:
      image: uint8 [H, W, 3] RGB.
      label, prediction: class ids [H, W]; 255 is void, which is hatched.
      classes, palette: of the data set: names, and uint8 [classes, 3] RGB.

    Returns:
      RGB uint8, of the size that `side_by_side` describes.
    """
    size = panel_size(*label.shape)
    row = arranged(
        {
            "input": resized(image, size),
            "truth": colourize(resized_label(label, size), palette),
            "prediction": colourize(resized_label(prediction, size), palette),
        },
        is_stacked(*label.shape),
    )
    return np.concatenate([row, legend(classes, palette, row.shape[1], np.union1d(label, prediction))])


def prediction_figure(
    image: np.ndarray, predictions: dict[str, np.ndarray], classes: tuple[str, ...], palette: np.ndarray
) -> np.ndarray:
    """The picture and predictions over it, above the legend of the classes that occur.

    With a prediction for each number of loops this is the paper's Figure 5.

    Args:
      image: uint8 [H, W, 3] RGB.
      predictions: {title: class ids [H, W]}, for example for 1, 2 and 3 loops.
      classes, palette: of the network: names, and uint8 [classes, 3] RGB.

    Returns:
      RGB uint8, of the size that `side_by_side` describes.
    """
    size = panel_size(*image.shape[:2])
    small = resized(image, size)
    drawn = {
        title: overlay(small, resized_label(label, size), palette) for title, label in predictions.items()
    }
    row = arranged({"input": small, **drawn}, is_stacked(*image.shape[:2]))
    used = np.unique(np.concatenate([np.unique(label) for label in predictions.values()]))
    return np.concatenate([row, legend(classes, palette, row.shape[1], used)])


def side_by_side(pictures: dict[str, np.ndarray]) -> np.ndarray:
    """Pictures of one size, each under its title.

    They stand in a row, with a longer side of 320 to 640 pixels each. Pictures wider than 2.5 times their
    height stand one below the other, with a width of 320 to 1280 pixels. Small pictures are enlarged and
    large ones reduced; a side is never shorter than 32 pixels.

    Args:
      pictures: {title: uint8 [H, W, 3] RGB}.

    Returns:
      RGB uint8, at least 400 pixels wide.
    """
    height, width = next(iter(pictures.values())).shape[:2]
    size = panel_size(height, width)
    panels = {title: resized(picture, size) for title, picture in pictures.items()}
    return arranged(panels, is_stacked(height, width))


def arranged(panels: dict[str, np.ndarray], stacked: bool) -> np.ndarray:
    """Panels of one size {title: uint8 [h, w, 3]} under their titles, in a row or `stacked`, as they are."""
    height, width = next(iter(panels.values())).shape[:2]
    longest_line = max(_LONGEST_TITLE, width - 8)
    titles = [wrapped(title, longest_line) for title in panels]
    width = max(width, 8 + max(text_width(line) for title in titles for line in title))
    lines = max(map(len, titles))
    cells = []
    for title, panel in zip(titles, panels.values(), strict=True):
        bar = text_block([""] * (lines - len(title)) + title, width)
        cells.append(np.concatenate([bar, padded(panel, height, width)]))
        cells.append(np.full((_GAP, width, 3) if stacked else (len(cells[-1]), _GAP, 3), 255, np.uint8))
    canvas = np.concatenate(cells[:-1], 0 if stacked else 1)
    return padded(canvas, 0, LEAST_WIDTH)
