"""Pictures of what a network sees: input, truth and prediction side by side, over a colour legend."""

import pathlib

import cv2
import numpy as np

from ccnet_jax.data.files import VOID

_FONT, _LINE = cv2.FONT_HERSHEY_SIMPLEX, 22  # the legend's font, and its lines in pixels


def colourize(label: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Class ids [H, W] to RGB uint8 [H, W, 3]; void is black."""
    colours = np.zeros((256, 3), np.uint8)
    colours[: len(palette)] = palette
    return colours[label.astype(np.uint8)]


def overlay(image: np.ndarray, label: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """The picture with its classes' colours half over it; void is darkened. RGB uint8 [H, W, 3]."""
    return cv2.addWeighted(image, 0.5, colourize(label, palette), 0.5, 0)


def contact_sheet(
    images: np.ndarray, labels: np.ndarray, classes: tuple[str, ...], palette: np.ndarray, width: int = 1600
) -> np.ndarray:
    """Pictures in rows, each beside itself with its labels over it, above the legend.

    Args:
      images: uint8 [N, H, W, 3] RGB.
      labels: [N, H, W] class ids, 255 is void.
      classes, palette: of the data set.
      width: of the sheet in pixels, about; pictures wider than a quarter of it are made smaller.

    Returns:
      RGB uint8.
    """
    zoom = min(1.0, width / 4 / images.shape[2])  # two pairs in a row or more
    size = round(images.shape[2] * zoom), round(images.shape[1] * zoom)
    cells = []
    for image, label in zip(images, labels, strict=True):
        pair = np.concatenate([image, overlay(image, label, palette)], 1)
        pair = cv2.resize(pair, (2 * size[0], size[1]), interpolation=cv2.INTER_AREA)
        cells.append(cv2.copyMakeBorder(pair, 0, 6, 0, 6, cv2.BORDER_CONSTANT, value=(255, 255, 255)))
    columns = width // (2 * size[0])
    blank = np.full_like(cells[0], 255)
    cells += [blank] * (-len(cells) % columns)
    rows = [np.concatenate(cells[i : i + columns], 1) for i in range(0, len(cells), columns)]
    sheet = np.concatenate(rows)
    title = np.full((_LINE, sheet.shape[1], 3), 255, np.uint8)
    _write(title, f"{len(images)} crops of {images.shape[2]}x{images.shape[1]} pixels", 4, 16)
    return np.concatenate([title, sheet, legend(classes, palette, sheet.shape[1], np.unique(labels))])


def comparison(
    image: np.ndarray,
    label: np.ndarray,
    prediction: np.ndarray,
    classes: tuple[str, ...],
    palette: np.ndarray,
) -> np.ndarray:
    """Input, truth and prediction in a row, titled, above the legend.

    Args:
      image: uint8 [H, W, 3] RGB.
      label, prediction: class ids [H, W]; 255 in the label is void.
      classes, palette: of the data set.

    Returns:
      RGB uint8, pictures enlarged to at least 320 pixels of width.
    """
    height, width = label.shape
    zoom = max(1, -(-320 // width))
    panels = []
    for title, panel in (
        ("input", image),
        ("truth", colourize(label, palette)),
        ("prediction", colourize(prediction, palette)),
    ):
        panel = cv2.resize(panel, (width * zoom, height * zoom), interpolation=cv2.INTER_NEAREST)
        bar = np.full((_LINE, panel.shape[1], 3), 255, np.uint8)
        _write(bar, title, 4, 16)
        panels.append(np.concatenate([bar, panel]))
        panels.append(np.full((len(panels[0]), 6, 3), 255, np.uint8))
    row = np.concatenate(panels[:-1], 1)
    used = np.union1d(label, prediction)
    return np.concatenate([row, legend(classes, palette, row.shape[1], used)])


def legend(classes: tuple[str, ...], palette: np.ndarray, width: int, used: np.ndarray) -> np.ndarray:
    """RGB uint8 [h, width, 3]: a colour patch and a name for each class among `used`, and for void."""
    names = [(name, palette[i]) for i, name in enumerate(classes) if i in used]
    if VOID in used:
        names.append(("void", np.zeros(3, np.uint8)))
    column = 30 + max(cv2.getTextSize(name, _FONT, 0.45, 1)[0][0] for name, _ in names)
    columns = max(1, width // column)
    rows = -(-len(names) // columns)
    canvas = np.full((rows * _LINE + 6, width, 3), 255, np.uint8)
    for i, (name, colour) in enumerate(names):
        x, y = i % columns * column + 4, i // columns * _LINE + 4
        cv2.rectangle(canvas, (x, y), (x + 16, y + 15), tuple(int(c) for c in colour), cv2.FILLED)
        _write(canvas, name, x + 21, y + 12)
    return canvas


def save_picture(path: pathlib.Path, picture: np.ndarray) -> None:
    """Write RGB uint8 [H, W, 3] as PNG, making the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1].tobytes())


def _write(canvas: np.ndarray, text: str, x: int, y: int) -> None:
    cv2.putText(canvas, text, (x, y), _FONT, 0.45, (0, 0, 0), 1, cv2.LINE_AA)
