"""What figures are made of: the sizes of panels, text, and class ids as colours."""

import cv2
import numpy as np

from ccnet_jax.common.labels import VOID

_LEAST_SIDE = 32  # pixels: room for a mark of attention and for the hatching
_SMALLEST = 320  # a panel's longer side is this or more
_LARGEST_IN_ROW, _LARGEST_IN_STACK = 640, 1280  # a panel's longer side is this or less
LINE = 22  # pixels, the height of a line of text
_FONT, _SCALE = cv2.FONT_HERSHEY_SIMPLEX, 0.45
_BASE = 16  # of a line, from its top
_HATCH_LINE, HATCH_GROUND = 80, 190  # grey values of the hatching, light enough to differ from black
_PERIOD, _THICKNESS = 8, 3  # of the hatching's lines, in pixels along a row
_LEAST_LUMA = 64  # of the tints in an overlay, 0 to 255
_LUMA = np.array([0.299, 0.587, 0.114])  # of red, green and blue (ITU-R BT.601)


def is_stacked(height: int, width: int) -> bool:
    """Whether panels of such images stand one below the other: three in a row would be a thin strip."""
    return width > 2.5 * height


def panel_size(height: int, width: int) -> tuple[int, int]:
    """(height, width) in a figure's panel, for an image of this size; see `fitted_size`."""
    return fitted_size(
        height, width, _SMALLEST, _LARGEST_IN_STACK if is_stacked(height, width) else _LARGEST_IN_ROW
    )


def fitted_size(height: int, width: int, smallest: int, largest: int) -> tuple[int, int]:
    """A size with the longer side between `smallest` and about `largest`, in pixels.

    An image is enlarged by a whole number, so that its pixels stay squares of one size. No side is shorter
    than `_LEAST_SIDE`: an image that is many times longer than wide loses its proportions, because otherwise
    it would be a line of one pixel.
    """
    longer = max(height, width)
    zoom = -(-smallest // longer) if longer < smallest else min(1, largest / longer)
    return max(_LEAST_SIDE, round(height * zoom)), max(_LEAST_SIDE, round(width * zoom))


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """An image [H, W] or [H, W, 3] at the size (height, width): pixels are averaged or repeated."""
    height, width = image.shape[:2]
    reduced = min(width, size[1]), min(height, size[0])
    if reduced != (width, height):
        image = cv2.resize(image, reduced, interpolation=cv2.INTER_AREA)
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)


def resized_label(label: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Class ids [H, W] at the size (height, width), uint8: each pixel has the id of the nearest one."""
    return cv2.resize(label.astype(np.uint8), size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)


def pad(canvas: np.ndarray, height: int, width: int) -> np.ndarray:
    """The canvas uint8 [h, w, 3] with white below and right of it, at least `height` by `width`."""
    below, right = max(height - canvas.shape[0], 0), max(width - canvas.shape[1], 0)
    return np.pad(canvas, ((0, below), (0, right), (0, 0)), constant_values=255)


def write(canvas: np.ndarray, text: str, x: int, y: int) -> None:
    """Write a line of text on `canvas` (uint8 [H, W, 3]), its top left corner at column x and row y."""
    cv2.putText(canvas, text, (x, y + _BASE), _FONT, _SCALE, (0, 0, 0), 1, cv2.LINE_AA)


def text_width(text: str) -> int:
    """The width of a line of text."""
    return cv2.getTextSize(text, _FONT, _SCALE, 1)[0][0]


def shorten(text: str, width: int) -> str:
    """The text, or as much of its beginning as fits in `width` with an ellipsis behind it."""
    if text_width(text) <= width:
        return text
    end = len(text) - 1
    while end > 0 and text_width(text[:end] + "…") > width:
        end -= 1
    return text[:end].rstrip() + "…"


def wrap_text(text: str, width: int) -> list[str]:
    """The text in lines of at most `width`, broken at spaces; a longer word is shortened."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".lstrip()
        if text_width(longer) <= width:
            lines[-1] = longer
        elif lines[-1]:
            lines.append(shorten(word, width))
        else:
            lines[-1] = shorten(word, width)
    return lines


def text_block(lines: list[str], width: int) -> np.ndarray:
    """Lines of text on white, uint8 [lines * LINE, width, 3]."""
    block = np.full((len(lines) * LINE, width, 3), 255, np.uint8)
    for i, line in enumerate(lines):
        write(block, line, 4, i * LINE)
    return block


def colourize(label: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """The classes' colours, with void as grey diagonal hatching.

    Args:
      label: class ids [H, W]; 255 is void.
      palette: uint8 [classes, 3] RGB.

    Returns:
      RGB uint8 [H, W, 3]; ids outside the palette are black.
    """
    colours = np.zeros((256, 3), np.uint8)
    colours[: len(palette)] = palette
    label = label.astype(np.uint8)
    return np.where((label == VOID)[..., None], hatching(*label.shape), colours[label])


def overlay(image: np.ndarray, label: np.ndarray, palette: np.ndarray, opacity: float = 0.5) -> np.ndarray:
    """Half the image plus half its classes' colours, or another fraction; void is hatching.

    Half the image plus half of a black class would be a darker image and nothing more, and the class
    would not be seen. So a colour with a luma below 64 gets as much grey as brings it to 64. Grey keeps the
    hue, and lighter colours stay as they are. Every class thus adds a luma of about 32 or more to half the
    image.

    Args:
      image: uint8 [H, W, 3] RGB.
      label: class ids [H, W]; 255 is void.
      palette: uint8 [classes, 3] RGB.
      opacity: fraction of the colours, 0 to 1.

    Returns:
      RGB uint8 [H, W, 3].
    """
    return cv2.addWeighted(image, 1 - opacity, colourize(label, tints(palette)), opacity, 0)


def hatching(height: int, width: int) -> np.ndarray:
    """Grey diagonal hatching, uint8 [height, width, 3]: the sign of void."""
    rows, columns = np.ogrid[:height, :width]
    on_line = (rows + columns) % _PERIOD < _THICKNESS
    grey = np.where(on_line, _HATCH_LINE, HATCH_GROUND).astype(np.uint8)
    return np.repeat(grey[..., None], 3, -1)


def tints(palette: np.ndarray) -> np.ndarray:
    """The palette uint8 [classes, 3], its dark colours lifted to a luma of about `_LEAST_LUMA`."""
    missing = np.maximum(_LEAST_LUMA - palette @ _LUMA, 0)
    return np.minimum(palette + np.ceil(missing)[:, None], 255).astype(np.uint8)
