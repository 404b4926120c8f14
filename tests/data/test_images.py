"""Images that are larger by their header than anything that is read: refused before memory is set aside."""

import contextlib
import io
import os
import resource
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ccnet_jax.common.errors import UserError, read_json
from ccnet_jax.data import images
from ccnet_jax.data.images import MOST_PIXELS, UnusableImage, check_header, decode_image, decode_label
from ccnet_jax.data.user_images import read_image
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


def with_a_false_frame(junk, marker=b"\xff\xfe"):
    """A JPEG of 16 x 16 whose frame a careless reader takes for one of 1 x 1, in a comment."""
    data = bytes(written("jpeg"))
    false = b"\xff\xc0\x00\x0b\x08\x00\x01\x00\x01\x01\x01\x11\x00"
    comment = marker + struct.pack(">H", 2 + len(false)) + false
    return data[:2] + junk + comment + data[2:]


@pytest.mark.parametrize(
    "junk", [b"", b"\xff", b"\xff\xff\xff", b"\0\0", b"\xff\x00", b"\xff\xd0", b"\xff\x01"], ids=repr
)
def test_a_jpegs_frame_is_found_as_its_decoder_finds_it(junk, monkeypatch):
    data = with_a_false_frame(junk)
    assert images.size_in_header(data) == (16, 16)
    with contextlib.suppress(UnusableImage):  # OpenCV allows less than libjpeg
        decode_image(data, "a")
    monkeypatch.setattr(images, "MOST_PIXELS", 255)
    with pytest.raises(UserError, match="16 x 16"):
        decode_image(data, "a")


def test_a_second_header_changes_no_size(monkeypatch):
    """Pillow takes the last one of a PNG's, as OpenCV does not."""
    monkeypatch.setattr(images, "MOST_PIXELS", 255)
    large, small = png(16, 16, 3), png(1, 1, 3)
    both = small[:33] + large[8:]
    for decode in (decode_image, decode_label):
        with pytest.raises(UserError):
            decode(both, "a")


KINDS = {
    kind: bytes(written(kind.partition(" ")[0], **options))
    for kind, options in {
        "jpeg": {},
        "jpeg progressive": {"progressive": True},
        "png": {},
        "webp": {},
        "webp lossless": {"lossless": True},
        "tiff": {},
        "bmp": {},
        "gif": {},
        "jpeg2000": {},
    }.items()
}
TOKENS = [
    b"\xff",
    b"\0",
    b"\xff\xd8",
    b"\xff\xc0\0\x0b\x08",
    b"\xff\xfe\0\x06",
    b"\xff\xc2",
    b"\xff\xda",
    b"IHDR",
    b"\0\x01",
    b"\x7f\xff",
]
EDITS = st.lists(
    st.tuples(
        st.integers(0, 600),
        st.one_of(
            st.sampled_from(TOKENS),
            st.binary(max_size=4),
            st.integers(1, 300).map(lambda x: struct.pack(">H", x)),
        ),
        st.sampled_from(["insert", "replace", "cut", "repeat"]),
    ),
    min_size=1,
    max_size=5,
)


@pytest.mark.parametrize("kind", KINDS)
def test_no_mutated_header_lets_more_pixels_through(kind):
    """Of files of 256 pixels with a bound of 300, nothing larger is decoded, and no memory is set aside."""

    def peak():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    @settings(max_examples=250, deadline=None, database=None, derandomize=True)
    @given(EDITS)
    def mutated(edits):
        data = bytearray(KINDS[kind])
        for place, token, how in edits:
            end = place + (0 if how == "insert" else len(token))
            if how == "repeat":
                token = bytes(data[place : place + 20])
            data[place : end if how != "repeat" else place] = b"" if how == "cut" else token
        for decode in (decode_image, decode_label):
            try:
                found = decode(bytes(data), "a")
            except UserError:
                continue
            assert found.shape[0] * found.shape[1] <= images.MOST_PIXELS

    before = peak()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(images, "MOST_PIXELS", 300)
        mutated()
    assert peak() - before < 100_000  # kB


def tiff_of(array):
    file = io.BytesIO()
    Image.fromarray(array).save(file, "tiff")
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (tiff_of(np.zeros((4, 5), np.float32)), "floating-point numbers of 32 bits.*convert it"),
        (tiff_of(np.zeros((4, 5), np.int32)), "whole numbers of 32 bits.*convert it"),
        (
            tiff(16, 16).replace(struct.pack("<HHII", 277, 3, 1, 3), struct.pack("<HHII", 277, 3, 1, 5)),
            "a TIFF of a kind that is not read",
        ),
        (b"\0\0\0\x18ftypheic" + bytes(100), "a HEIC, AVIF or video file.*not read.*convert it"),
        (b"\x76\x2f\x31\x01" + bytes(100), "OpenEXR.*not read.*convert it"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PostScript.*not read"),
    ],
    ids=["float", "int", "five bands", "HEIC", "EXR", "EPS"],
)
def test_a_kind_that_is_not_read_is_not_called_corrupt(data, words):
    with pytest.raises(UnusableImage, match=words) as found:
        decode_image(data, "a.file")
    assert "corrupt" not in str(found.value)


def test_sixteen_bits_become_their_upper_eight():
    numbers = (np.arange(20, dtype=np.uint16) * 3000).reshape(4, 5)
    for kind in ("tiff", "png"):
        file = io.BytesIO()
        Image.fromarray(numbers).save(file, kind)
        found = decode_image(file.getvalue(), "a")
        np.testing.assert_allclose(found, np.repeat((numbers / 257)[..., None], 3, 2), atol=1)


def test_a_name_is_no_file_type(tmp_path):
    """A FIFO would be waited for, and a device read without end."""
    os.mkfifo(tmp_path / "x.png")
    (tmp_path / "y.png").symlink_to("/dev/zero")
    for name, kind in {"x.png": "FIFO", "y.png": "device"}.items():
        with pytest.raises(UnusableImage, match=f"{name} cannot be read .it is a {kind}, and no file"):
            read_image(tmp_path / name)
        with pytest.raises(UserError, match=f"it is a {kind}, and no file"):
            read_json(tmp_path / name, "move it away")
