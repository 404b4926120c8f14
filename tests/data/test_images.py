"""Images that are larger by their header than anything that is read: refused before memory is set aside."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from ccnet_jax.common.errors import UserError
from ccnet_jax.data.images import MOST_PIXELS, check_header, decode_image, decode_label
from tests.miniatures import scene


def written(kind, **options):
    file = io.BytesIO()
    Image.fromarray(scene(0, 16, 16)[0]).save(file, kind, **options)
    return bytearray(file.getvalue())


def png(width, height, colour_type=2):
    def chunk(kind, content):
        return (
            struct.pack(">I4s", len(content), kind) + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, colour_type, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


def jpeg(width, height):
    data = written("jpeg")
    struct.pack_into(">HH", data, data.find(b"\xff\xc0") + 5, height, width)
    return bytes(data)


def tiff(width, height):
    data = written("tiff")
    (start,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, start)
    for place in range(start + 2, start + 2 + 12 * count, 12):
        if (tag := struct.unpack_from("<H", data, place)[0]) in (256, 257):
            struct.pack_into("<HHII", data, place, tag, 4, 1, width if tag == 256 else height)
    return bytes(data)


def bmp(width, height):
    data = written("bmp")
    struct.pack_into("<ii", data, 18, width, height)
    return bytes(data)


def qoi(width, height):
    return b"qoif" + struct.pack(">IIBB", width, height, 3, 0) + bytes(7) + b"\1"


def webp(width, height):
    sides = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + sides


LARGE = {
    "png": png(100_000, 100_000),
    "grey png": png(100_000, 100_000, 0),
    "palette png": png(100_000, 100_000, 3),
    "jpeg": jpeg(65_000, 65_000),
    "tiff": tiff(100_000, 100_000),
    "bmp": bmp(100_000, 100_000),
    "qoi": qoi(100_000, 100_000),
    "webp": webp(16_000_000, 16_000),
}


@pytest.mark.parametrize("kind", LARGE)
def test_a_header_of_ten_billion_pixels_is_refused(kind):
    for decode in (decode_image, *([] if kind == "jpeg" else [decode_label])):
        with pytest.raises(
            UserError, match="a.file has by its header .*more than 178,956,970 pixels, which are"
        ):
            decode(LARGE[kind], "a.file")


def test_the_largest_size_that_is_read():
    for make in (png, qoi):
        check_header(make(MOST_PIXELS, 1), "a")
        with pytest.raises(UserError):
            check_header(make(MOST_PIXELS + 1, 1), "a")


def test_headers_that_make_no_sense_are_left_to_the_decoders():
    for data in (
        b"",
        b"\xff\xd8",
        b"\xff\xd8\xff\xe0",
        b"\xff\xd8\xff\xe0\x00\x00",
        b"qoif",
        b"\x89PNG\r\n\x1a\n",
    ):
        check_header(data, "a")
        with pytest.raises(UserError, match="a is (corrupt|empty)"):
            decode_image(data, "a")


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"exif": b"Exif\0\0" + bytes(3000)}])
def test_markers_before_a_jpegs_frame_are_passed_over(options):
    data = written("jpeg", **options)
    frame = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2"))
    np.testing.assert_array_equal(decode_image(bytes(data), "a").shape, (16, 16, 3))
    struct.pack_into(">HH", data, frame + 5, 60_000, 50_000)
    with pytest.raises(UserError, match="50000 x 60000"):
        check_header(bytes(data), "a")
