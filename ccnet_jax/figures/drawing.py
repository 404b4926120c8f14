"""Pictures of what a network sees, predicts and attends to, with titles and a colour legend."""

import pathlib

import cv2
import numpy as np
from PIL import Image

from ccnet_jax.errors import writing
from ccnet_jax.labels import VOID

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
    row = side_by_side(
        {"input": image, "truth": colourize(label, palette), "prediction": colourize(prediction, palette)}
    )
    used = np.union1d(label, prediction)
    return np.concatenate([row, legend(classes, palette, row.shape[1], used)])


def side_by_side(pictures: dict[str, np.ndarray]) -> np.ndarray:
    """Pictures of one size, uint8 [H, W, 3], in a row under their titles, made at least 320 pixels wide."""
    panels = []
    for title, picture in pictures.items():
        height, width = picture.shape[:2]
        zoom = max(1, -(-320 // width))
        picture = cv2.resize(picture, (width * zoom, height * zoom), interpolation=cv2.INTER_NEAREST)
        bar = np.full((_LINE, picture.shape[1], 3), 255, np.uint8)
        _write(bar, title, 4, 16)
        panels.append(np.concatenate([bar, picture]))
        panels.append(np.full((len(panels[0]), 6, 3), 255, np.uint8))
    return np.concatenate(panels[:-1], 1)


def prediction_figure(
    image: np.ndarray, predictions: dict[str, np.ndarray], classes: tuple[str, ...], palette: np.ndarray
) -> np.ndarray:
    """The picture and predictions over it, in a row above the legend: the paper's Figure 5.

    Args:
      image: uint8 [H, W, 3] RGB.
      predictions: {title: class ids [H, W]}, for example for 1, 2 and 3 loops.
      classes, palette: of the network.

    Returns:
      RGB uint8.
    """
    drawn = {title: overlay(image, label, palette) for title, label in predictions.items()}
    row = side_by_side({"input": image, **drawn})
    used = np.unique(np.concatenate([label.ravel() for label in predictions.values()]))
    return np.concatenate([row, legend(classes, palette, row.shape[1], used)])


def attention_figure(image: np.ndarray, maps: np.ndarray, point: tuple[int, int]) -> np.ndarray:
    """The picture with a green cross at the point, then what it attends to after each loop: Figure 6.

    Args:
      image: uint8 [H, W, 3] RGB.
      maps: [loops, h, w] from `attention_map`, drawn as the root of their share of the largest.
      point: (row, column) in the picture.

    Returns:
      RGB uint8.
    """
    height, width = image.shape[:2]
    cross, line = max(width // 20, 9), max(width // 300, 1)
    marked = cv2.drawMarker(image.copy(), point[::-1], (0, 255, 0), cv2.MARKER_CROSS, cross, line)
    panels = {"picture": marked}
    for loops, weights in enumerate(maps, 1):
        heat = np.sqrt(weights / max(weights.max(), 1e-12))
        heat = cv2.resize((255 * heat).astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
        heat = cv2.cvtColor(cv2.applyColorMap(heat, cv2.COLORMAP_JET), cv2.COLOR_BGR2RGB)
        panels[f"{loops} loop" + "s" * (loops > 1)] = cv2.addWeighted(image, 0.4, heat, 0.6, 0)
    return side_by_side(panels)


def save_labels(path: pathlib.Path, label: np.ndarray, palette: np.ndarray) -> None:
    """Write class ids [H, W] as a palette PNG: its pixels are the ids, shown in the classes' colours."""
    picture = Image.fromarray(label.astype(np.uint8), "P")
    picture.putpalette(palette.astype(np.uint8).tobytes())
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)


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
    _write_file(path, cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1].tobytes())


def save_grey(path: pathlib.Path, values: np.ndarray) -> None:
    """Write uint8 [H, W] as a grey PNG, making the folder."""
    _write_file(path, cv2.imencode(".png", values)[1].tobytes())


def _write_file(path: pathlib.Path, data: bytes) -> None:
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def _write(canvas: np.ndarray, text: str, x: int, y: int) -> None:
    cv2.putText(canvas, text, (x, y), _FONT, 0.45, (0, 0, 0), 1, cv2.LINE_AA)
