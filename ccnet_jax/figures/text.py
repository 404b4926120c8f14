"""Text in pictures: written, measured, wrapped and shortened. All lengths are in pixels."""

import cv2
import numpy as np

LINE = 22  # height of a line of text
_FONT, _SCALE = cv2.FONT_HERSHEY_SIMPLEX, 0.45
_BASE = 16  # of a line, from its top


def write(canvas: np.ndarray, text: str, x: int, y: int) -> None:
    """Write a line of text on `canvas` (uint8 [H, W, 3]), its top left corner at column x and row y."""
    cv2.putText(canvas, text, (x, y + _BASE), _FONT, _SCALE, (0, 0, 0), 1, cv2.LINE_AA)


def text_width(text: str) -> int:
    """The width of a line of text."""
    return cv2.getTextSize(text, _FONT, _SCALE, 1)[0][0]


def shortened(text: str, width: int) -> str:
    """The text, or as much of its beginning as fits in `width` with an ellipsis behind it."""
    if text_width(text) <= width:
        return text
    end = len(text) - 1
    while end > 0 and text_width(text[:end] + "…") > width:
        end -= 1
    return text[:end].rstrip() + "…"


def wrapped(text: str, width: int) -> list[str]:
    """The text in lines of at most `width`, broken at spaces; a longer word is shortened."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".lstrip()
        if text_width(longer) <= width:
            lines[-1] = longer
        elif lines[-1]:
            lines.append(shortened(word, width))
        else:
            lines[-1] = shortened(word, width)
    return lines


def text_block(lines: list[str], width: int) -> np.ndarray:
    """Lines of text on white, uint8 [lines * LINE, width, 3]."""
    block = np.full((len(lines) * LINE, width, 3), 255, np.uint8)
    for i, line in enumerate(lines):
        write(block, line, 4, i * LINE)
    return block
