"""How large a picture is by its header: nothing is decoded before that is known to be reasonable.

A file of a few bytes may say that it holds 100,000 x 100,000 pixels, and decoders set aside memory for all of
them before they find that nothing follows.
"""

import io
import struct

from PIL import Image

from ccnet_jax.common.errors import UserError

MOST_PIXELS = 178_956_970  # of a picture or a label: Pillow's own bound, 13,377 x 13,377
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # JPEG's markers of the kinds of coding


def check_header(data: bytes, name: object) -> None:
    """Raise UserError, naming it `name`, where a picture's header says that it is larger than `MOST_PIXELS`.

    Files without a known header pass: they are no pictures.
    """
    try:
        size = size_in_header(data)
    except Image.DecompressionBombError:  # the same bound
        raise UserError(_too_large("", name)) from None
    if size is not None:
        check_size(*size, name)


def size_in_header(data: bytes) -> tuple[int, int] | None:
    """(width, height) of a picture by its header, None where no header is known.

    The usual formats are looked at here, since training asks of every picture, and Pillow takes a twentieth
    of the time that decoding a small JPEG takes.

    Raises:
      Image.DecompressionBombError: Pillow finds more than `MOST_PIXELS`.
    """
    size: tuple[int, int] | None = None
    if data[:8] == b"\x89PNG\r\n\x1a\n" and len(data) >= 24:
        size = struct.unpack_from(">II", data, 16)
    elif data[:4] == b"qoif" and len(data) >= 12:
        size = struct.unpack_from(">II", data, 4)
    elif data[:2] == b"\xff\xd8":
        size = _jpeg_size(data)
    if size is not None:
        return size
    try:
        with Image.open(io.BytesIO(data)) as picture:
            return picture.size
    except (OSError, SyntaxError, ValueError):
        return None


def check_size(width: int, height: int, name: object) -> None:
    """Raise UserError where a picture of these sides is larger than `MOST_PIXELS`."""
    if width * height > MOST_PIXELS:
        raise UserError(_too_large(f"{width} x {height}, ", name))


def _too_large(sides: str, name: object) -> str:
    return (
        f"{name} has by its header {sides}more than {MOST_PIXELS:,} pixels, which are not read; cut it into "
        "parts, or fetch that file again"
    )


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """(width, height) in the first frame's header; None where the markers before it are not in order."""
    place = 2
    while place + 9 <= len(data) and data[place] == 0xFF:
        if data[place + 1] in _START_OF_FRAME:
            height, width = struct.unpack_from(">HH", data, place + 5)
            return width, height
        (length,) = struct.unpack_from(">H", data, place + 2)
        place += 2 + length
    return None
