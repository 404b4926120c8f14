import io
import zlib

import cv2
import imagecodecs
import numpy as np
import pytest
from PIL import Image

from ccnet_jax.common.errors import UserError
from ccnet_jax.data.images import decode_image
from ccnet_jax.data.stored_png import stored_png


def image(height=37, width=53):
    rng = np.random.default_rng(0)
    smooth = cv2.resize(rng.integers(0, 256, (5, 7, 3), np.uint8), (width, height))
    return smooth + rng.integers(0, 9, smooth.shape, np.uint8)


def png(pixels, **settings):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", **settings)
    return file.getvalue()


def chunks(data):
    """[(start, name)]."""
    found, start = [], 8
    while start < len(data):
        found.append((start, data[start + 4 : start + 8]))
        start += 12 + int.from_bytes(data[start : start + 4], "big")
    return found


FILES = {
    "Pillow": lambda pixels: png(pixels),
    "not compressed": lambda pixels: png(pixels, compress_level=0),
    "more chunks": lambda pixels: png(pixels, dpi=(72, 72), icc_profile=b"no profile" * 9),
    "transparent colour": lambda pixels: png(pixels, transparency=(1, 2, 3)),
    "libpng": lambda pixels: imagecodecs.png_encode(pixels, level=9),
    "OpenCV": lambda pixels: cv2.imencode(".png", pixels[..., ::-1])[1].tobytes(),
}


@pytest.mark.parametrize("size", [(37, 53), (1, 1), (1, 300), (300, 1), (250, 333)])
@pytest.mark.parametrize("write", FILES.values(), ids=FILES)
def test_the_pixels_are_the_same(write, size):
    pixels = image(*size)
    data = write(pixels)
    stored = stored_png(data)
    assert stored is not data
    assert [name for _, name in chunks(stored)] == [b"IHDR", b"IDAT", b"IEND"]
    np.testing.assert_array_equal(imagecodecs.png_decode(stored), pixels)
    np.testing.assert_array_equal(decode_image(data, "x"), pixels)


def test_pixels_in_many_chunks():
    pixels = np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8)
    data = png(pixels)
    assert sum(name == b"IDAT" for _, name in chunks(data)) > 1
    np.testing.assert_array_equal(imagecodecs.png_decode(stored_png(data)), pixels)


def interlaced(pixels):
    """Adam7 by hand: one image for each of the seven passes, without filters."""
    starts = [(0, 0), (0, 4), (4, 0), (0, 2), (2, 0), (0, 1), (1, 0)]
    strides = [(8, 8), (8, 8), (8, 4), (4, 4), (4, 2), (2, 2), (2, 1)]
    passes = [(*start, *stride) for start, stride in zip(starts, strides, strict=True)]
    rows = [row for y, x, down, right in passes for row in pixels[y::down, x::right] if row.size]
    content = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    data = png(pixels)
    header = data[16:28] + b"\1"
    made = data[:8]
    for name, chunk in ((b"IHDR", header), (b"IDAT", content), (b"IEND", b"")):
        made += len(chunk).to_bytes(4, "big") + name + chunk + zlib.crc32(name + chunk).to_bytes(4, "big")
    return made


def test_interlaced_images_are_left_to_libpng():
    pixels = image()
    data = interlaced(pixels)
    assert stored_png(data) is data
    np.testing.assert_array_equal(decode_image(data, "x"), pixels)


def corrupt():
    data = png(image(200, 300))
    start = next(start for start, name in chunks(data) if name == b"IDAT")
    yield "no end of the pixels", data[:-20]
    yield "half", data[: len(data) // 2]
    yield "header alone", data[:33]
    yield "within the header", data[:28]
    yield "a changed byte", data[: start + 100] + bytes([data[start + 100] ^ 255]) + data[start + 101 :]
    yield "a larger size", data[:16] + (10**4).to_bytes(4, "big") * 2 + data[24:]
    yield "a smaller size", data[:16] + (30).to_bytes(4, "big") * 2 + data[24:]
    yield "a length beyond the end", data[:start] + (10**9).to_bytes(4, "big") + data[start + 4 :]


@pytest.mark.parametrize("data", [pytest.param(data, id=name) for name, data in corrupt()])
def test_corrupt_images_are_left_to_libpng(data):
    assert stored_png(data) is data
    with pytest.raises(UserError, match=r"town\.png is corrupt or not an image"):
        decode_image(data, "town.png")
