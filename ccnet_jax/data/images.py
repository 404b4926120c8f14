"""Pictures and label maps from the bytes of their files; every complaint names the file and the remedy."""

import io
import pathlib

import cv2
import imagecodecs
import numpy as np
from PIL import Image

from ccnet_jax.errors import UserError
from ccnet_jax.labels import UNKNOWN, VOID, Classes


def decode_sample(
    classes: Classes, image: bytes, label: bytes | None, image_name: object, label_name: object
) -> dict[str, np.ndarray]:
    """A sample (see `sources.Source`) from the bytes of its two files; without a label all of it is void.

    Raises UserError, naming the file, where one cannot be decoded, their sizes differ, or the label
    holds a number that the data set does not have.
    """
    pixels = decode_image(image, image_name)
    if label is None:
        return {"image": pixels, "label": np.full(pixels.shape[:2], VOID, np.uint8)}
    written = decode_label(label, label_name)
    if pixels.shape[:2] != written.shape:
        raise UserError(
            f"{image_name} is {pixels.shape[1]}x{pixels.shape[0]} pixels (upright, by its EXIF data) but "
            f"its label {label_name} is {written.shape[1]}x{written.shape[0]}; make them the same size"
        )
    indices = classes.label_ids.take(written)
    if (indices == UNKNOWN).any():
        y, x = np.argwhere(indices == UNKNOWN)[0]
        known = np.flatnonzero(classes.label_ids[:VOID] != UNKNOWN)
        raise UserError(
            f"{label_name} holds the label {written[y, x]} at row {y}, column {x}, which is none of its "
            f"data set's labels {known[0]} to {known[-1]} (or {VOID}, void); correct the file"
        )
    return {"image": pixels, "label": indices}


def decode_image(data: bytes, name: object) -> np.ndarray:
    """The picture as RGB uint8 [H, W, 3], upright as its EXIF data says; grey, CMYK and 16 bits too.

    8-bit RGB PNGs, of which Cityscapes consists, go through imagecodecs: it takes 0.6 of OpenCV's time
    (`experiments/data_throughput.py`). For JPEGs the two are equally fast, and OpenCV finds truncation.

    Raises UserError, naming it `name`, where the data are truncated, damaged or no picture.
    """
    if _is_png(data) and data[24:26] == b"\x08\x02":  # 8 bits, RGB
        pixels = _decode_png(data)
    else:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB) if data else None
    if pixels is None or pixels.ndim != 3:
        raise UserError(_undecodable(name, data))
    return pixels[..., :3]


def decode_label(data: bytes, name: object) -> np.ndarray:
    """The numbers in a label file, uint8 [H, W]: grey values, or a palette PNG's indices (not its colours).

    Raises UserError, naming it `name`, where the data are damaged, or no image of one 8-bit channel.
    """
    label = None
    if _is_png(data):
        bits, colour = data[24], data[25]
        if colour == 3:
            label = _palette_indices(data)
        else:
            label = _decode_png(data)
            if label is not None and bits < 8:  # decoders spread 1, 2 and 4 bits over 0 to 255
                label = label // (255 // (2**bits - 1))
    elif data:
        label = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if label is None:
        raise UserError(_undecodable(name, data))
    if label.ndim != 2 or label.dtype != np.uint8:
        raise UserError(
            f"{name} has shape {label.shape} and type {label.dtype}; a label must be an 8-bit image of one "
            "channel that holds class ids"
        )
    return label


def _is_png(data: bytes) -> bool:
    """Whether a PNG's signature and header are there; bytes 24 and 25 are bit depth and colour type."""
    return len(data) > 25 and data[:8] == b"\x89PNG\r\n\x1a\n"


def _decode_png(data: bytes) -> np.ndarray | None:
    try:
        return imagecodecs.png_decode(data)
    except imagecodecs.PngError:
        return None


def _palette_indices(data: bytes) -> np.ndarray | None:
    try:
        with Image.open(io.BytesIO(data)) as picture:
            return np.array(picture)
    except (OSError, SyntaxError, ValueError):  # Pillow's words for damaged PNGs
        return None


def _undecodable(name: object, data: bytes) -> str:
    what = "is damaged or not a picture" if data else "is empty"
    return f"{name} {what} ({len(data):,} bytes); fetch or unpack that file again"


def read_bytes(path: pathlib.Path, remedy: str = "put it back or correct the data folder") -> bytes:
    """What a file holds. Raises UserError, with the remedy, where it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); {remedy}") from None
