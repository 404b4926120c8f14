"""Whole figures: panels under their titles, legends, contact sheets, maps of attention, instances."""

from collections.abc import Sequence

import cv2
import numpy as np

from ccnet_jax.common.labels import VOID
from ccnet_jax.figures.canvas import (
    LINE,
    colourize,
    fitted_size,
    hatching,
    is_stacked,
    overlay,
    pad,
    panel_size,
    resize,
    resized_label,
    shorten,
    text_block,
    text_width,
    tints,
    wrap_text,
    write,
)

_LEAST_WIDTH = 400  # pixels of a figure: room for a legend
_LONGEST_TITLE = 320  # pixels of a title's line
_GAP = 6  # pixels between panels, and between the images of a sheet
_SWATCH = 16  # pixels, the side of a colour patch
_BESIDE = 30  # pixels of a column that are not the name: the patch and the gaps
_LONGEST_NAME = 160  # pixels of a name; a longer one is shortened
_SHEET_WIDTH = 1600  # pixels, about the largest
_SMALLEST_IN_SHEET = 96  # pixels: an image's longer side is this or more, and at most a quarter of the width
_BAR_WIDTH, _BAR_HEIGHT = 256, 14  # pixels of the colour scale
_GREY = 0.4  # the fraction of the image's grey in a map; the rest is the scale's colour
_BOX_LINE = 2  # pixels, of a box


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
    row = arrange(
        {
            "input": resize(image, size),
            "truth": colourize(resized_label(label, size), palette),
            "prediction": colourize(resized_label(prediction, size), palette),
        },
        is_stacked(*label.shape),
    )
    return np.concatenate([row, legend(classes, palette, row.shape[1], np.union1d(label, prediction))])


def prediction_figure(
    image: np.ndarray, predictions: dict[str, np.ndarray], classes: tuple[str, ...], palette: np.ndarray
) -> np.ndarray:
    """The image and predictions over it, above the legend of the classes that occur.

    With a prediction for each number of loops this is the paper's Figure 5.

    Args:
      image: uint8 [H, W, 3] RGB.
      predictions: {title: class ids [H, W]}, for example for 1, 2 and 3 loops.
      classes, palette: of the network: names, and uint8 [classes, 3] RGB.

    Returns:
      RGB uint8, of the size that `side_by_side` describes.
    """
    size = panel_size(*image.shape[:2])
    small = resize(image, size)
    drawn = {
        title: overlay(small, resized_label(label, size), palette) for title, label in predictions.items()
    }
    row = arrange({"input": small, **drawn}, is_stacked(*image.shape[:2]))
    used = np.unique(np.concatenate([np.unique(label) for label in predictions.values()]))
    return np.concatenate([row, legend(classes, palette, row.shape[1], used)])


def side_by_side(images: dict[str, np.ndarray]) -> np.ndarray:
    """Images of one size, each under its title.

    They stand in a row, with a longer side of 320 to 640 pixels each. Images wider than 2.5 times their
    height stand one below the other, with a width of 320 to 1280 pixels. Small images are enlarged and
    large ones reduced; a side is never shorter than 32 pixels.

    Args:
      images: {title: uint8 [H, W, 3] RGB}.

    Returns:
      RGB uint8, at least 400 pixels wide.
    """
    height, width = next(iter(images.values())).shape[:2]
    size = panel_size(height, width)
    panels = {title: resize(image, size) for title, image in images.items()}
    return arrange(panels, is_stacked(height, width))


def arrange(panels: dict[str, np.ndarray], stacked: bool) -> np.ndarray:
    """Panels of one size {title: uint8 [h, w, 3]} under their titles, in a row or `stacked`, as they are."""
    height, width = next(iter(panels.values())).shape[:2]
    longest_line = max(_LONGEST_TITLE, width - 8)
    titles = [wrap_text(title, longest_line) for title in panels]
    width = max(width, 8 + max(text_width(line) for title in titles for line in title))
    lines = max(map(len, titles))
    cells = []
    for title, panel in zip(titles, panels.values(), strict=True):
        bar = text_block([""] * (lines - len(title)) + title, width)
        cells.append(np.concatenate([bar, pad(panel, height, width)]))
        cells.append(np.full((_GAP, width, 3) if stacked else (len(cells[-1]), _GAP, 3), 255, np.uint8))
    canvas = np.concatenate(cells[:-1], 0 if stacked else 1)
    return pad(canvas, 0, _LEAST_WIDTH)


def legend(classes: tuple[str, ...], palette: np.ndarray, width: int, used: np.ndarray) -> np.ndarray:
    """A colour patch and a name for each class that occurs, in columns, and a hatched patch for void.

    Args:
      classes, palette: of the data set: names, and uint8 [classes, 3] RGB.
      width: in pixels; names that are too long for it end in an ellipsis.
      used: the class ids that occur; 255 is void.

    Returns:
      RGB uint8 [h, width, 3].
    """
    longest = min(_LONGEST_NAME, width - _BESIDE)
    entries = [(shorten(name, longest), _patch(palette[i])) for i, name in enumerate(classes) if i in used]
    if VOID in used:
        entries.append(("void", hatching(_SWATCH, _SWATCH)))
    column = _BESIDE + max((text_width(name) for name, _ in entries), default=0)
    columns = max(1, width // column)
    canvas = np.full((-(-len(entries) // columns) * LINE + 6, width, 3), 255, np.uint8)
    for i, (name, patch) in enumerate(entries):
        x, y = i % columns * column + 4, i // columns * LINE + 4
        canvas[y : y + _SWATCH, x : x + _SWATCH] = patch
        cv2.rectangle(canvas, (x - 1, y - 1), (x + _SWATCH, y + _SWATCH), (128, 128, 128))  # white ones too
        write(canvas, name, x + _SWATCH + 5, y - 4)
    return canvas


def _patch(colour: np.ndarray) -> np.ndarray:
    return np.full((_SWATCH, _SWATCH, 3), colour, np.uint8)


def image_sheet(images: Sequence[np.ndarray], title: str) -> np.ndarray:
    """Images in rows below a title: RGB uint8, the largest side of each at most a third of the width."""
    height, side = (max(image.shape[axis] for image in images) for axis in (0, 1))
    zoom = min(1.0, _SHEET_WIDTH / 3 / max(height, side))
    cells = []
    for image in images:
        small = resize(image, (round(image.shape[0] * zoom), round(image.shape[1] * zoom)))
        cells.append(pad(small, round(height * zoom) + _GAP, round(side * zoom) + _GAP))
    columns = max(1, min(len(cells), _SHEET_WIDTH // cells[0].shape[1]))
    return _add_title([title], _in_rows(cells, columns))


def _in_rows(cells: list[np.ndarray], columns: int) -> np.ndarray:
    """Images of one size in rows; what is missing is white."""
    cells = cells + [np.full_like(cells[0], 255)] * (-len(cells) % columns)
    rows = [np.concatenate(cells[i : i + columns], 1) for i in range(0, len(cells), columns)]
    return pad(np.concatenate(rows), 0, _LEAST_WIDTH)


def _add_title(lines: list[str], sheet: np.ndarray) -> np.ndarray:
    """The sheet below lines of text."""
    return np.concatenate([text_block(lines, sheet.shape[1]), sheet])


def contact_sheet(
    images: np.ndarray, labels: np.ndarray, classes: tuple[str, ...], palette: np.ndarray
) -> np.ndarray:
    """Images in rows, each beside itself with its labels over it, above the legend.

    Args:
      images: uint8 [N, H, W, 3] RGB, one or more.
      labels: class ids [N, H, W]; 255 is void, which is hatched.
      classes, palette: of the data set: names, and uint8 [classes, 3] RGB.

    Returns:
      RGB uint8.
    """
    size = fitted_size(labels.shape[1], labels.shape[2], _SMALLEST_IN_SHEET, _SHEET_WIDTH // 4)
    columns = max(1, min(len(images), _SHEET_WIDTH // (2 * size[1])))
    cells = []
    for image, label in zip(images, labels, strict=True):
        small = resize(image, size)
        pair = np.concatenate([small, overlay(small, resized_label(label, size), palette)], 1)
        cells.append(cv2.copyMakeBorder(pair, 0, _GAP, 0, _GAP, cv2.BORDER_CONSTANT, value=(255, 255, 255)))
    title = f"{len(images)} crops of {images.shape[2]}x{images.shape[1]} pixels"
    sheet = _add_title([title], _in_rows(cells, columns))
    return np.concatenate([sheet, legend(classes, palette, sheet.shape[1], np.unique(labels))])


def attention_figure(image: np.ndarray, maps: np.ndarray, point: tuple[int, int]) -> np.ndarray:
    """The image, then what the point attends to after each loop, then a colour scale: the paper's Figure 6.

    A white cross with a black outline marks the point in every panel. The colour shows the square root of a
    weight's fraction of the panel's largest weight, from black (0) to light yellow (1). The root makes
    weights visible that are a hundredth of the largest, as most are after two loops. The lightness of
    the colours grows evenly with the value.

    Args:
      image: uint8 [H, W, 3] RGB.
      maps: floating [loops, h, w], attention weights that are not negative, of features of any size.
      point: (row, column) in the image.

    Returns:
      RGB uint8, of the size that `side_by_side` describes, plus the scale.
    """
    height, width = image.shape[:2]
    size = panel_size(height, width)
    small = resize(image, size)
    at = int((point[0] + 0.5) * size[0] / height), int((point[1] + 0.5) * size[1] / width)
    panels = {"image": _mark_point(small, at)}
    for loops, weights in enumerate(maps, 1):
        largest = float(weights.max())
        root = np.sqrt(weights / max(largest, 1e-12)).astype(np.float32)
        title = f"{loops} loop{'s' * (loops > 1)}, max {largest:.2g}"
        panels[title] = _mark_point(_heat(small, resize(root, size)), at)
    figure = arrange(panels, is_stacked(height, width))
    return np.concatenate([figure, _scale(figure.shape[1])])


def _heat(image: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The image [H, W, 3] in grey, so that no colour of its own mixes in, under the colours of `values`.

    `values` [H, W] are from 0 to 1.
    """
    colours = cv2.applyColorMap(np.round(255 * values).astype(np.uint8), cv2.COLORMAP_INFERNO)
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return cv2.addWeighted(grey, _GREY, cv2.cvtColor(colours, cv2.COLOR_BGR2RGB), 1 - _GREY, 0)


def _mark_point(image: np.ndarray, at: tuple[int, int]) -> np.ndarray:
    """The image [H, W, 3] with a white cross, outlined in black, at `at` (row, column)."""
    side = max(min(image.shape[:2]) // 12, 15)
    marked = image.copy()
    cv2.drawMarker(marked, at[::-1], (0, 0, 0), cv2.MARKER_CROSS, side + 4, 7)
    cv2.drawMarker(marked, at[::-1], (255, 255, 255), cv2.MARKER_CROSS, side, 3)
    return marked


def _scale(width: int) -> np.ndarray:
    """The colour scale with its ends named, RGB uint8 [h, width, 3], its colours as they are on mid-grey."""
    grey = np.full((_BAR_HEIGHT, _BAR_WIDTH, 3), 128, np.uint8)
    values = np.tile(np.linspace(0, 1, _BAR_WIDTH, dtype=np.float32), (_BAR_HEIGHT, 1))
    strip = np.full((LINE + 6, width, 3), 255, np.uint8)
    left = 8 + text_width("0")
    strip[8 : 8 + _BAR_HEIGHT, left : left + _BAR_WIDTH] = _heat(grey, values)
    write(strip, "0", 4, 4)
    write(strip, "max", left + _BAR_WIDTH + 4, 4)
    words = "colour: the square root of weight / max, with the largest weight of each panel as max"
    return np.concatenate([strip, text_block(wrap_text(words, width - 8), width)])


def instance_overlay(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
    masks: np.ndarray,
    classes: tuple[str, ...],
    palette: np.ndarray,
    scores: np.ndarray | None = None,
) -> np.ndarray:
    """The image with instances, the first one uppermost, at the size of a figure's panel.

    Args:
      image: uint8 [H, W, 3] RGB.
      boxes: [n, 4] (x0, y0, x1, y1) in the image's pixels.
      labels: [n] class indices.
      masks: [n, H, W], which pixels are each instance's.
      classes, palette: of the network: names, and uint8 [classes, 3] RGB.
      scores: [n] from 0 to 1; None writes names alone.

    Returns:
      RGB uint8, its longer side 320 to 1280 pixels.
    """
    size = panel_size(*image.shape[:2])
    canvas = resize(image, size).copy()
    colours = tints(palette)
    zoom = np.array([size[1] / image.shape[1], size[0] / image.shape[0]] * 2)
    order = range(len(boxes) - 1, -1, -1)
    for i in order:
        mask = resized_label(masks[i], size).astype(bool)
        canvas[mask] = (canvas[mask].astype(np.int32) + colours[labels[i]]) // 2
        contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(canvas, contours, -1, colours[labels[i]].tolist(), 1)
    for i in order:
        x0, y0, x1, y1 = (boxes[i] * zoom).round().astype(int).tolist()
        cv2.rectangle(canvas, (x0, y0), (x1 - 1, y1 - 1), colours[labels[i]].tolist(), _BOX_LINE)
        name = classes[labels[i]] if scores is None else f"{classes[labels[i]]} {scores[i]:.2f}"
        _write_beside(canvas, name, x0, y0)
    return canvas


def instance_comparison(drawn: dict[str, np.ndarray]) -> np.ndarray:
    """Overlays of one image {title: uint8 [h, w, 3]} under their titles."""
    first = next(iter(drawn.values()))
    return arrange(drawn, is_stacked(*first.shape[:2]))


def _write_beside(canvas: np.ndarray, text: str, x: int, y: int) -> None:
    """Text on white above the point (x, y), or below it at the upper edge, within the canvas."""
    block = text_block([text], min(text_width(text) + 8, canvas.shape[1]))
    height, width = min(block.shape[0], canvas.shape[0]), block.shape[1]
    top = y - height if y >= height else y
    top, left = (
        int(np.clip(start, 0, end))
        for start, end in ((top, canvas.shape[0] - height), (x, canvas.shape[1] - width))
    )
    canvas[top : top + height, left : left + width] = block[:height]
