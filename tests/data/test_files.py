import struct
import zlib

import cv2
import ml_collections
import numpy as np
import pytest

from ccnet_jax.data import pipeline
from ccnet_jax.errors import UserError


def write(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)


@pytest.fixture
def camvid(tmp_path):
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in ("b", "a"):
            write(tmp_path / "images" / split / f"{name}.png", rng.integers(0, 256, (12, 16, 3), np.uint8))
            label = rng.integers(0, 11, (12, 16)).astype(np.uint8)
            label[0] = 255
            write(tmp_path / "labels" / split / f"{name}.png", label)
    return tmp_path


@pytest.fixture
def cityscapes(tmp_path):
    rng = np.random.default_rng(0)
    for city, name in (("ulm", "ulm_000001_000019"), ("aachen", "aachen_000000_000019")):
        image = rng.integers(0, 256, (12, 16, 3), np.uint8)
        write(tmp_path / "leftImg8bit/train" / city / f"{name}_leftImg8bit.png", image)
        label = rng.integers(0, 34, (12, 16)).astype(np.uint8)
        write(tmp_path / "gtFine/train" / city / f"{name}_gtFine_labelIds.png", label)
        write(
            tmp_path / "gtFine/train" / city / f"{name}_gtFine_instanceIds.png",
            label.astype(np.uint16) * 1000,
        )
    return tmp_path


def open_source(name, folder, split="train"):
    return pipeline.open_source(ml_collections.ConfigDict({"name": name, "dir": str(folder)}), split)


def test_camvid_pairs(camvid):
    source = open_source("camvid", camvid)
    assert [source.name(i) for i in range(len(source))] == ["a", "b"]
    sample = source[0]
    blue_first = cv2.imread(str(camvid / "images/train/a.png"))
    np.testing.assert_array_equal(sample["image"], blue_first[..., ::-1])
    np.testing.assert_array_equal(
        sample["label"], cv2.imread(str(camvid / "labels/train/a.png"), cv2.IMREAD_UNCHANGED)
    )


def test_cityscapes_maps_label_ids_to_train_ids(cityscapes):
    source = open_source("cityscapes", cityscapes)
    assert len(source) == 2
    assert source.name(0).startswith("aachen")
    path = cityscapes / "gtFine/train/aachen/aachen_000000_000019_gtFine_labelIds.png"
    ids, train_ids = cv2.imread(str(path), cv2.IMREAD_UNCHANGED), source[0]["label"]
    published = {7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12}
    published |= {26: 13, 27: 14, 28: 15, 31: 16, 32: 17, 33: 18}
    np.testing.assert_array_equal(train_ids, np.vectorize(lambda i: published.get(i, 255))(ids))
    assert source.classes[13] == "car"


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (
            lambda d: (d / "images/train/a.png").unlink() or (d / "images/train/b.png").unlink(),
            "holds no .jpg",
        ),
        (lambda d: (d / "labels/train/a.png").unlink(), "a.png has no label"),
        (lambda d: (d / "images/train").rename(d / "images/other"), "images/train is not a folder"),
        (lambda d: (d / "images/train/a.png").write_bytes(b"not a picture"), "a.png is not a picture"),
        (lambda d: (d / "images/train/a.png").write_bytes(b""), "a.png is not a picture"),
        (
            lambda d: write(d / "labels/train/a.png", np.zeros((12, 15), np.uint8)),
            "16x12 pixels but its label .*15x12",
        ),
        (
            lambda d: write(d / "labels/train/a.png", np.full((12, 16), 11, np.uint8)),
            "label 11 at row 0, column 0",
        ),
        (
            lambda d: write(d / "labels/train/a.png", np.zeros((12, 16, 3), np.uint8)),
            "8-bit image of one channel",
        ),
        (
            lambda d: write(d / "labels/train/a.png", np.zeros((12, 16), np.uint16)),
            "8-bit image of one channel",
        ),
    ],
)
def test_spoilt_data_is_one_sentence_naming_the_file(camvid, spoil, words):
    spoil(camvid)
    with pytest.raises(UserError, match=words) as error:
        open_source("camvid", camvid)[0]
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("bits", "colour", "words"), [(8, 3, "palette PNG"), (1, 0, "1-bit PNG")])
def test_pngs_whose_numbers_opencv_changes_are_refused(camvid, bits, colour, words):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    row = bytes([0]) + bytes(16 * bits // 8)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 16, 12, bits, colour, 0, 0, 0))
    png += chunk(b"PLTE", bytes(range(6))) if colour == 3 else b""
    png += chunk(b"IDAT", zlib.compress(row * 12)) + chunk(b"IEND", b"")
    (camvid / "labels/train/a.png").write_bytes(png)
    with pytest.raises(UserError, match=words):
        open_source("camvid", camvid)[0]


def test_an_id_cityscapes_does_not_have_is_refused(cityscapes):
    path = cityscapes / "gtFine/train/aachen/aachen_000000_000019_gtFine_labelIds.png"
    write(path, np.full((12, 16), 40, np.uint8))
    with pytest.raises(UserError, match="label 40 at row 0, column 0"):
        open_source("cityscapes", cityscapes)[0]


@pytest.mark.parametrize(
    ("name", "folder", "split", "words"),
    [
        ("cityscapes", "", "train", "pass --config.data.dir=FOLDER.*leftImg8bit"),
        ("cityscapes", "/nowhere", "train", "/nowhere is not a folder.*gtFine"),
        ("camvid", "/nowhere", "train", "/nowhere is not a folder"),
        ("streets", "", "night", "streets has the splits"),
        ("kitti", "", "train", "'kitti' does not exist; choose one of camvid"),
    ],
)
def test_missing_data_says_what_to_put_where(name, folder, split, words):
    with pytest.raises(UserError, match=words):
        open_source(name, folder, split)
