"""Images and label maps from the bytes of their files; every error message names the file and the remedy.

The header says how large an image is, and nothing is decoded before that is known to be reasonable. A file
of a few bytes may say that it holds 100,000 x 100,000 pixels, and decoders set aside memory for all of them
before they find that nothing follows. A header that is read otherwise here than by the decoder would pass the
bound: PNG, QOI and JPEG are looked at as their decoders do, and Pillow reads and decodes all others.
"""

import contextlib
import errno
import functools
import io
import pathlib
import struct
import warnings
from collections.abc import Iterator

import cv2
import imagecodecs
import numpy as np
from PIL import Image, ImageOps

from ccnet_jax.common.errors import UserError
from ccnet_jax.common.files import read_file
from ccnet_jax.common.labels import UNKNOWN, VOID, Classes
from ccnet_jax.data.stored_png import stored_png

MOST_PIXELS = 178_956_970  # of an image or a label: Pillow's own bound, 13,377 x 13,377
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # JPEG's markers of the kinds of coding
_JPEG = b"\xff\xd8"
_WITHOUT_LENGTH = frozenset(range(0xD0, 0xD9)) | {0x01}  # its markers that nothing belongs to
_LAST = frozenset((0xD9, 0xDA))  # its markers behind which there is no frame: end of image, start of scan
# What Pillow may read; others of its formats run programs (EPS), or have another size when they are decoded.
_FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
_CORRUPT = (OSError, SyntaxError, ValueError, EOFError, struct.error)  # what Pillow raises then
_NOT_READ = {  # how files begin that are images of a kind that nothing here decodes
    b"II*\0": "a TIFF of a kind",
    b"MM\0*": "a TIFF of a kind",
    b"II+\0": "a BigTIFF of a kind",
    b"MM\0+": "a BigTIFF of a kind",
    b"\x76\x2f\x31\x01": "an OpenEXR file, a kind",
    b"#?RADIANCE": "a Radiance file, a kind",
    b"\xff\x0a": "a JPEG XL file, a kind",
    b"\0\0\0\x0cJXL ": "a JPEG XL file, a kind",
    b"8BPS": "a Photoshop file, a kind",
    b"%!PS": "a PostScript file, a kind",
    b"%PDF": "a PDF file, a kind",
}
_NOT_THE_FILES_FAULT = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


class UnusableImage(UserError):
    """One image of a data set cannot be used: its file or its label's is missing, corrupt or a misfit."""


def decode_sample(
    classes: Classes,
    image: bytes,
    label: bytes | None,
    image_name: object,
    label_name: object,
    remedy: str = "correct the file",
) -> dict[str, np.ndarray]:
    """A sample (see `sources.Source`) from the bytes of its two files; without a label all of it is void.

    Args:
      classes: of the label file.
      image, label: the bytes.
      image_name, label_name: of the files, for error messages.
      remedy: what to do where the label holds what the data set does not have.

    Raises:
      UnusableImage: naming the file, where one cannot be decoded or their sizes differ.
      UserError: naming the file, where the label holds a number or a colour that the data set does not have.
    """
    pixels = decode_image(image, image_name)
    if label is None:
        return {"image": pixels, "label": np.full(pixels.shape[:2], VOID, np.uint8)}
    indices = decode_indices(classes, label, label_name, remedy)
    if pixels.shape[:2] != indices.shape:
        raise UnusableImage(
            f"{image_name} is {pixels.shape[1]}x{pixels.shape[0]} pixels (upright, by its EXIF data) but "
            f"its label {label_name} is {indices.shape[1]}x{indices.shape[0]}; make them the same size"
        )
    return {"image": pixels, "label": indices}


def decode_indices(
    classes: Classes, label: bytes, name: object, remedy: str = "correct the file"
) -> np.ndarray:
    """The class indices in a label file, uint8 [H, W], 255 is void. Raises UserError as `decode_sample`."""
    pixels = label_pixels(label, name)
    if pixels.ndim == 3 and classes.label_colours is not None:
        return _colour_indices(classes.label_colours, pixels, name, remedy)
    numbers = _one_channel(pixels, name)
    indices = cv2.LUT(numbers, classes.label_ids)
    if (indices == UNKNOWN).any():
        y, x = np.argwhere(indices == UNKNOWN)[0]
        known = np.flatnonzero(classes.label_ids[:VOID] != UNKNOWN)
        raise UserError(
            f"{name} holds the label {numbers[y, x]} at row {y}, column {x}, which is none of its data set's "
            f"labels {known[0]} to {known[-1]} (or {VOID}, void); {remedy}"
        )
    return indices


def decode_image(data: bytes, name: object) -> np.ndarray:
    """The image as RGB uint8 [H, W, 3], upright as its EXIF data says; grey, CMYK and 16 bits too.

    8-bit RGB PNGs, of which Cityscapes consists, go through libdeflate and libpng, which are faster than
    OpenCV (`experiments/data_throughput.py`). For JPEGs imagecodecs and OpenCV are about as fast, and OpenCV
    finds truncation. QOI files, of which tiles are made, are unknown to OpenCV.

    Raises UnusableImage, naming it `name`, where the data are truncated, corrupt, no image, or of a kind that
    is not read, UserError where it is too large.
    """
    check_header(data, name)
    if data[:4] == b"qoif":
        pixels = _decode_qoi(data)
    elif _is_png(data) and data[24:26] == b"\x08\x02":  # 8 bits, RGB
        pixels = _decode_png(stored_png(data))
    elif _is_png(data) or data[:2] == _JPEG:
        pixels = _decode_with_opencv(data)
    else:
        with _open_image(data, name) as image:
            pixels = None if image is None else _rgb(image, name)
    if pixels is None or pixels.ndim != 3:
        raise UnusableImage(_undecodable(name, data))
    return pixels[..., :3]


def decode_label(data: bytes, name: object) -> np.ndarray:
    """The numbers in a label file, uint8 [H, W]: grey values, or indices of a palette image.

    Raises UserError, naming it `name`, where the data are corrupt or a JPEG, there are several channels, or a
    number is above 255.
    """
    return _one_channel(label_pixels(data, name), name)


def label_pixels(data: bytes, name: object) -> np.ndarray:
    """What a label file holds, not interpreted: [H, W] numbers or indices, or [H, W, C] in the order RGB.

    Raises UnusableImage, naming it `name`, where the data are corrupt, UserError where they are a JPEG or
    too large.
    """
    if data[:3] == _JPEG + b"\xff":
        raise UserError(
            f"{name} is a JPEG, whatever its name says: JPEG changes the pixels' numbers; export the label "
            "again as PNG"
        )
    check_header(data, name)
    if _is_png(data) and data[25] != 3:
        label = _decode_png(data)
        if label is not None and data[24] < 8:  # decoders spread 1, 2 and 4 bits over 0 to 255
            label = label // (255 // (2 ** data[24] - 1))
    else:
        label = _decode_with_pillow(data, name)
    if label is None:
        raise UnusableImage(_undecodable(name, data))
    return label


def _one_channel(label: np.ndarray, name: object) -> np.ndarray:
    """The numbers as uint8 [H, W]. Raises UserError at several channels, or at a number above 255."""
    if label.ndim == 2 and label.dtype.kind in "iu" and label.dtype != np.uint8:
        y, x = np.unravel_index(np.argmax(label), label.shape)
        if label.min() >= 0 and label[y, x] <= VOID:
            return label.astype(np.uint8)
        raise UserError(
            f"{name} holds the number {label[y, x]} at row {y}, column {x}; a label must be an 8-bit image "
            "of one channel that holds class ids from 0 to 255"
        )
    if label.ndim != 2 or label.dtype != np.uint8:
        raise UserError(
            f"{name} has shape {label.shape} and type {label.dtype}; a label must be an 8-bit image of one "
            "channel that holds class ids"
        )
    return label


def _colour_indices(
    known: dict[tuple[int, int, int], int], pixels: np.ndarray, name: object, remedy: str
) -> np.ndarray:
    """The class indices of a label image's colours, uint8 [H, W]. Raises UserError at an unknown colour."""
    if pixels.dtype != np.uint8 or pixels.shape[2] < 3:
        raise UserError(
            f"{name} has shape {pixels.shape} and type {pixels.dtype}; a colour label must be an 8-bit RGB "
            "image"
        )
    red, green, blue = (pixels[..., channel].astype(np.uint32) for channel in range(3))
    indices = _colour_table(tuple(known.items())).take((red << 16) | (green << 8) | blue)
    if (indices == UNKNOWN).any():
        y, x = np.argwhere(indices == UNKNOWN)[0]
        colour = tuple(int(value) for value in pixels[y, x, :3])
        raise UserError(
            f"{name} holds the colour {colour} at row {y}, column {x}, which is none of the {len(known)} "
            f"colours of its classes; {remedy}"
        )
    return indices


@functools.lru_cache(maxsize=4)  # 16 MB each
def _colour_table(known: tuple[tuple[tuple[int, int, int], int], ...]) -> np.ndarray:
    """uint8 [2^24] from 65536 red + 256 green + blue to class indices, `VOID` or `UNKNOWN`."""
    table = np.full(2**24, UNKNOWN, np.uint8)
    for (red, green, blue), index in known:
        table[(red << 16) | (green << 8) | blue] = index
    return table


def _is_png(data: bytes) -> bool:
    """Whether a PNG's signature and header are there; bytes 24 and 25 are bit depth and colour type."""
    return len(data) > 25 and data[:8] == b"\x89PNG\r\n\x1a\n"


def _decode_png(data: bytes) -> np.ndarray | None:
    try:
        return imagecodecs.png_decode(data)
    except (imagecodecs.PngError, ValueError):  # the second of libpng's message, where that is no text
        return None


def _decode_qoi(data: bytes) -> np.ndarray | None:
    if data[-8:] != b"\0\0\0\0\0\0\0\1":  # the decoder does not miss the end of a truncated file
        return None
    try:
        return imagecodecs.qoi_decode(data)
    except (imagecodecs.QoiError, ValueError):
        return None


def _decode_with_opencv(data: bytes) -> np.ndarray | None:
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB) if data else None
    except cv2.error:
        return None


def _decode_with_pillow(data: bytes, name: object) -> np.ndarray | None:
    """Of palette images the indices, where OpenCV gives the colours."""
    with _open_image(data, name) as image:
        pixels = None if image is None else np.array(image)
    return pixels.astype(np.uint8) if pixels is not None and pixels.dtype == bool else pixels


@contextlib.contextmanager
def _open_image(data: bytes, name: object) -> Iterator[Image.Image | None]:
    """Inside, the image, whose size is allowed and whose pixels are there; None where it cannot be decoded.

    Raises UserError where it is too large: Pillow's own bound is a warning up to twice as many pixels.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # on half of the bound, and on odd tags
            image = Image.open(io.BytesIO(data), formats=_FORMATS)
            check_size(*image.size, name)
            image.load()
    except _CORRUPT:
        yield None
        return
    except Image.DecompressionBombError:
        raise UserError(_too_large("", name)) from None
    with image:
        yield image


def _rgb(image: Image.Image, name: object) -> np.ndarray:
    """uint8 [H, W, 3], upright; of 16 bits the upper 8. Raises UnusableImage where they are others."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        grey = (np.asarray(image) >> 8).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if image.mode in ("I", "F"):
        kind = "whole" if image.mode == "I" else "floating-point"
        raise UnusableImage(
            f"{name} holds {kind} numbers of 32 bits, whose range the file does not say; convert it to an "
            "image of 8 bits"
        )
    return np.array(image.convert("RGB"))


def _undecodable(name: object, data: bytes) -> str:
    kind = next((kind for start, kind in _NOT_READ.items() if data.startswith(start)), None)
    if kind is None and data[4:8] == b"ftyp":
        kind = "a HEIC, AVIF or video file, a kind"
    if kind is not None:
        formats = "an 8-bit PNG, JPEG, TIFF, BMP or WebP"
        return f"{name} is {kind} that is not read, or cut off ({len(data):,} bytes); convert it to {formats}"
    what = "is corrupt or not an image" if data else "is empty"
    return f"{name} {what} ({len(data):,} bytes); fetch or unpack that file again"


def read_bytes(path: pathlib.Path, remedy: str = "put it back or correct the data folder") -> bytes:
    """What a file holds. Raises UnusableImage, with the remedy, where it cannot be read.

    Raises UserError where no other file could be read either: memory is used up, or the limit of open files.
    """
    try:
        return read_file(path)
    except OSError as error:
        if error.errno in _NOT_THE_FILES_FAULT:
            raise UserError(
                f"{path} cannot be read ({error.strerror}); raise that limit (see `ulimit -a`), or end other "
                "programs"
            ) from None
        raise UnusableImage(f"{path} cannot be read ({error.strerror}); {remedy}") from None


def check_header(data: bytes, name: object) -> None:
    """Raise UserError, naming it `name`, where an image's header says that it is larger than `MOST_PIXELS`.

    Files without a known header pass: they are no images.
    """
    try:
        size = size_in_header(data)
    except Image.DecompressionBombError:  # the same bound
        raise UserError(_too_large("", name)) from None
    if size is not None:
        check_size(*size, name)


def size_in_header(data: bytes) -> tuple[int, int] | None:
    """(width, height) of an image by its header, None where no header is known.

    The usual formats are looked at here, since training asks of every image, and Pillow takes a twentieth
    of the time that decoding a small JPEG takes.

    Raises:
      Image.DecompressionBombError: Pillow finds more than `MOST_PIXELS`.
    """
    size: tuple[int, int] | None = None
    if data[:8] == b"\x89PNG\r\n\x1a\n" and len(data) >= 24:
        size = struct.unpack_from(">II", data, 16)
    elif data[:4] == b"qoif" and len(data) >= 12:
        size = struct.unpack_from(">II", data, 4)
    elif data[:2] == _JPEG:
        size = _jpeg_size(data)
    else:
        try:
            with (
                warnings.catch_warnings(action="ignore"),
                Image.open(io.BytesIO(data), formats=_FORMATS) as image,
            ):
                size = image.size
        except _CORRUPT:
            return None
    return size


def check_size(width: int, height: int, name: object) -> None:
    """Raise UserError where an image of these sides is larger than `MOST_PIXELS`."""
    if width * height > MOST_PIXELS:
        raise UserError(_too_large(f"{width} x {height}, ", name))


def _too_large(sides: str, name: object) -> str:
    return (
        f"{name} has by its header {sides}more than {MOST_PIXELS:,} pixels, which are not read; cut it into "
        "parts, or fetch that file again"
    )


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """(width, height) of the first frame, which is found as libjpeg does; None where there is none.

    libjpeg passes over whatever stands before a marker, and over bytes 0xFF that fill space before it.
    """
    place = 2
    while (place := data.find(b"\xff", place)) >= 0:
        while data[place : place + 1] == b"\xff":
            place += 1
        if place >= len(data) or data[place] in _LAST:
            return None
        marker, place = data[place], place + 1
        if marker == 0 or marker in _WITHOUT_LENGTH:
            continue
        if place + 7 > len(data):
            return None
        if marker in _START_OF_FRAME:
            height, width = struct.unpack_from(">HH", data, place + 3)
            return width, height
        (length,) = struct.unpack_from(">H", data, place)
        place += max(length, 2)
    return None
