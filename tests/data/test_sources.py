"""Reading the published folder layouts: right pixels, right numbers, and one message for what is wrong."""

import dataclasses
import io
import os
import resource
import shutil
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from ccnet_jax.common.errors import UserError
from ccnet_jax.data import images, pipeline, sources
from ccnet_jax.data.config import DataConfig
from tests.miniatures import ORIENTATION, WRITERS, scene, write


def open_source(name, folder, split="train"):
    data = DataConfig(name=name, dir=str(folder) if folder else None)
    return pipeline.open_source(data, split)


@pytest.mark.parametrize(
    ("name", "splits"),
    [
        ("ade20k", {"train": 5, "val": 5, "train+val": 10}),
        ("camvid", {"train": 4, "val": 4}),
        ("cityscapes", {"train": 3, "val": 3, "test": 3, "train_extra": 3, "train+val": 6}),
        (
            "voc2012",
            {"train": 3, "val": 3, "trainval": 6, "aug": 3, "train+aug": 6, "trainaug": 6, "test": 3},
        ),
        ("streets", {"train": 8000, "val": 100, "train+val": 8100}),
    ],
)
def test_splits(miniatures, name, splits):
    for split, count in splits.items():
        source = open_source(name, miniatures.get(name), split)
        assert len(source) == count
        assert len({source.name(i) for i in range(min(count, 10))}) == min(count, 10)
        sample = source[count - 1]
        assert sample["image"].dtype == sample["label"].dtype == np.uint8
        assert sample["image"].shape == (*sample["label"].shape, 3)
        assert source.palette.shape == (len(source.classes), 3)
        assert set(np.unique(sample["label"])) <= {*range(len(source.classes)), 255}
        assert (sample["label"] == 255).all() == (split == "test")
    if "train+val" in splits:
        parts = [open_source(name, miniatures.get(name), split) for split in ("train", "val")]
        both = open_source(name, miniatures.get(name), "train+val")
        first, last = len(parts[0]), len(both) - 1
        for i, part, there in ((0, 0, 0), (first, 1, 0), (last, 1, last - first)):
            assert both.name(i) == parts[part].name(there)
            np.testing.assert_array_equal(both[i]["image"], parts[part][there]["image"])


def test_class_counts_are_the_published_ones(miniatures):
    counts = {name: len(open_source(name, folder).classes) for name, folder in miniatures.items()}
    assert counts == {"ade20k": 150, "camvid": 11, "cityscapes": 19, "voc2012": 21}


@pytest.mark.parametrize("name", ["ade20k", "camvid", "cityscapes"])
def test_what_a_mac_leaves_beside_the_images_is_no_image(miniatures, name, tmp_path):
    folder = tmp_path / name
    shutil.copytree(miniatures[name], folder)
    for path in list(folder.rglob("*.*g")):
        path.with_name(f"._{path.name}").write_bytes(b"\x00\x05\x16\x07")
        path.with_name(".DS_Store").write_bytes(b"\x00\x00\x00\x01Bud1")
    before = open_source(name, miniatures[name])
    after = open_source(name, folder)
    assert [after.name(i) for i in range(len(after))] == [before.name(i) for i in range(len(before))]


def test_cityscapes_maps_label_ids_to_train_ids(miniatures):
    source = open_source("cityscapes", miniatures["cityscapes"])
    assert source.name(0).startswith("aachen")
    image, label = source.pairs[0]
    assert label.name == image.name.replace("_leftImg8bit", "_gtFine_labelIds")
    published = {7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12}
    published |= {26: 13, 27: 14, 28: 15, 31: 16, 32: 17, 33: 18}
    ids = np.array(Image.open(label))
    np.testing.assert_array_equal(source[0]["label"], np.vectorize(lambda i: published.get(i, 255))(ids))
    assert source.classes[13] == "car"
    assert len(np.unique(source[0]["label"])) > 5
    coarse = open_source("cityscapes", miniatures["cityscapes"], "train_extra")
    assert "gtCoarse" in str(coarse.pairs[0][1])


def test_ade20k_counts_from_one_and_ignores_zero(miniatures):
    source = open_source("ade20k", miniatures["ade20k"])
    for i in range(len(source)):
        written = np.array(Image.open(source.pairs[i][1])).astype(int)
        np.testing.assert_array_equal(source[i]["label"], np.where(written == 0, 255, written - 1))
    assert (source.classes[0], source.classes[149]) == ("wall", "flag")
    assert source.palette[1].tolist() == [180, 120, 120]


def test_ade20k_grey_cmyk_and_rotated_images_show_the_scene_upright(miniatures):
    source = open_source("ade20k", miniatures["ade20k"])
    for i in range(5):
        true, _ = scene(i, 64 + 8 * i, 96)
        if i == 1:
            true = np.repeat(true[..., 1:2], 3, 2)
        assert source[i]["image"].shape == true.shape
        assert np.abs(source[i]["image"].astype(int) - true).mean() < 9  # JPEG's own loss


def test_voc_palette_images_give_their_indices(miniatures):
    source = open_source("voc2012", miniatures["voc2012"])
    for i in range(len(source)):
        _, true = scene(i, 75, 100 - 10 * i)
        np.testing.assert_array_equal(source[i]["label"], true)
    assert source.palette[:3].tolist() == [[0, 0, 0], [128, 0, 0], [0, 128, 0]]
    assert source.palette[20].tolist() == [0, 64, 128]
    np.testing.assert_array_equal(
        source[0]["label"], open_source("voc2012", miniatures["voc2012"], "trainaug")[0]["label"]
    )


def test_lists_may_hold_the_file_names_of_both(miniatures, tmp_path):
    path = tmp_path / "trainaug.txt"
    path.write_text("/JPEGImages/2007_000001.jpg /SegmentationClassAug/2007_000001.png\n\n2007_000002 1\n")
    assert sources.read_list(path, "voc2012", "") == ["2007_000001", "2007_000002"]


@pytest.mark.parametrize(
    ("removed", "words"),
    [
        ("JPEGImages/2007_000500.jpg", "train.txt names .*2007_000500.jpg, which is not there"),
        ("SegmentationClass/2007_000500.png", "2007_000500.jpg has no label .*2007_000500.png"),
    ],
)
def test_a_run_may_start_again_after_a_file_was_removed(tmp_path, removed, words):
    (WRITERS["voc2012"](tmp_path) / removed).unlink()
    data = DataConfig(name="voc2012", dir=str(tmp_path))
    with pytest.raises(UserError, match=words):
        pipeline.open_source(data, "train")
    data = dataclasses.replace(data, skip_corrupt=1)
    source = pipeline.open_source(data, "train")
    assert len(source) == 3
    with pytest.raises(images.UnusableImage, match=f"{removed} cannot be read"):
        source[0]
    pipeline.check_first_image(source, data, 1)
    with pytest.raises(UserError, match=words):  # scores are of all images
        pipeline.open_source(dataclasses.replace(data, train_split="val"), "train")


def test_what_keeps_every_file_from_being_read_is_no_damage(miniatures):
    source = open_source("camvid", miniatures["camvid"])
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        with pytest.raises(UserError, match=r"0.png cannot be read .Too many open files.; raise") as error:
            source[0]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert not isinstance(error.value, images.UnusableImage)


@pytest.mark.parametrize("inside", ["voc2012", "ade20k"])
def test_the_folder_above_is_found_too(tmp_path, inside):
    root = {"voc2012": "VOCdevkit/VOC2012", "ade20k": "ADEChallengeData2016"}[inside]
    WRITERS[inside](tmp_path / root)
    assert len(open_source(inside, tmp_path)) == len(open_source(inside, tmp_path / root))


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(bits, colour, rows, extra=b""):
    """A PNG of packed numbers, made by hand: OpenCV and Pillow write no 2- and 4-bit greys."""
    height, width = rows.shape
    packed = np.zeros((height, -(-width * bits // 8)), np.uint8)
    for x in range(width):
        packed[:, x * bits // 8] |= rows[:, x] << (8 - bits - x * bits % 8)
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    lines = b"".join(b"\0" + line.tobytes() for line in packed)
    ends = chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + ends


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("colour", [0, 3])
def test_labels_of_any_bit_depth_give_the_numbers_in_the_file(bits, colour):
    rows = np.random.default_rng(0).integers(0, 2**bits, (7, 13)).astype(np.uint8)
    palette = np.random.default_rng(1).integers(0, 256, 3 * 2**bits, np.uint8).tobytes()
    data = png(bits, colour, rows, chunk(b"PLTE", palette) if colour == 3 else b"")
    np.testing.assert_array_equal(images.decode_label(data, "a.png"), rows)


def test_image_decoding_agrees_with_pillow():
    image, _ = scene(0, 37, 53)
    for form, suffix in ((image, "PNG"), (np.dstack([image, image[..., :1]]), "PNG"), (image[..., 0], "PNG")):
        data = io.BytesIO()
        Image.fromarray(form).save(data, suffix)
        expected = np.array(Image.open(data).convert("RGB"))
        np.testing.assert_array_equal(images.decode_image(data.getvalue(), "a"), expected)
    data = io.BytesIO()
    Image.fromarray(image).save(data, "JPEG", quality=90)
    assert (
        np.abs(images.decode_image(data.getvalue(), "a").astype(int) - np.array(Image.open(data))).max() <= 3
    )


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientations_are_what_pillow_makes_of_them(orientation):
    image, _ = scene(0, 40, 56)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    data = io.BytesIO()
    Image.fromarray(image).save(data, "JPEG", exif=exif, quality=95)
    expected = np.array(ImageOps.exif_transpose(Image.open(data)))
    assert np.abs(images.decode_image(data.getvalue(), "a").astype(int) - expected).max() <= 3


LISTS = "ImageSets/Segmentation"
LABEL = "labels/train/0.png"
IMAGE = "images/train/0.png"


def cut(path, fraction):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * fraction)])


def jpeg_named_png(path):
    Image.fromarray(np.zeros((64, 96), np.uint8)).save(path, "JPEG")


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 16
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda d: [p.unlink() for p in (d / "images/train").iterdir()], "images/train holds no .jpg"),
        (lambda d: (d / LABEL).unlink(), "images/train/0.png has no label .*labels/train/0.png"),
        (lambda d: (d / "images/train").rename(d / "images/other"), "images/train is not a folder.*images/"),
        (lambda d: (d / IMAGE).write_bytes(b"not an image"), "train/0.png is corrupt or not an image"),
        (lambda d: (d / IMAGE).write_bytes(b""), "train/0.png is empty"),
        (lambda d: cut(d / IMAGE, 0.5), "images/train/0.png is corrupt"),
        (lambda d: cut(d / IMAGE, 0.98), "images/train/0.png is corrupt"),
        (lambda d: flip_a_bit(d / IMAGE), "images/train/0.png is corrupt"),
        (lambda d: (d / IMAGE).write_bytes(b"\x89PNG\r\n\x1a\n"), "images/train/0.png is corrupt"),
        (lambda d: (d / IMAGE).write_bytes(b"\x89PNG" + bytes(40)), "images/train/0.png is corrupt"),
        (lambda d: (d / LABEL).write_bytes(b""), "labels/train/0.png is empty"),
        (lambda d: (d / LABEL).write_bytes(b"\x89PNG\r\n\x1a\n"), "labels/train/0.png is corrupt"),
        (lambda d: (d / LABEL).write_bytes(b"\x89PNG" + bytes(40)), "labels/train/0.png is corrupt"),
        (lambda d: cut(d / LABEL, 0.5), "labels/train/0.png is corrupt"),
        (lambda d: write(d / LABEL, np.zeros((64, 95), np.uint8)), "96x64 pixels .*its label .* is 95x64"),
        (
            lambda d: write(d / LABEL, np.full((64, 96), 11, np.uint8)),
            "label 11 at row 0, column 0.* 0 to 10",
        ),
        (lambda d: write(d / LABEL, np.zeros((64, 96, 3), np.uint8)), "8-bit image of one channel"),
        (
            lambda d: write(d / LABEL, np.full((64, 96), 300, np.uint16)),
            "number 300 at row 0, column 0.* 8-bit",
        ),
        (lambda d: jpeg_named_png(d / LABEL), "train/0.png is a JPEG, whatever its name says: .* as PNG"),
    ],
)
def test_spoilt_data_is_one_message_naming_the_file(tmp_path, spoil, words):
    spoil(WRITERS["camvid"](tmp_path, images=1) or tmp_path)
    with pytest.raises(UserError, match=words) as error:
        open_source("camvid", tmp_path)[0]
    assert "\n" not in str(error.value)


def test_16_bit_labels_of_small_numbers_are_read(tmp_path):
    source = open_source("camvid", WRITERS["camvid"](tmp_path, images=1))
    wanted = source[0]["label"]
    write(tmp_path / LABEL, wanted.astype(np.uint16))
    np.testing.assert_array_equal(source[0]["label"], wanted)


@pytest.mark.parametrize("fraction", [0.3, 0.9, 0.999])
def test_truncated_jpegs_are_found(miniatures, fraction):
    data = open_source("ade20k", miniatures["ade20k"]).pairs[0][0].read_bytes()
    with pytest.raises(UserError, match="a.jpg is corrupt or not an image"):
        images.decode_image(data[: int(len(data) * fraction)], "a.jpg")


def test_corrupt_palette_labels_are_found(miniatures):
    data = open_source("voc2012", miniatures["voc2012"]).pairs[0][1].read_bytes()
    for length in (30, 200, len(data) // 2, len(data) - 40):
        with pytest.raises(UserError, match="a.png is corrupt or not an image"):
            images.decode_label(data[:length], "a.png")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_named(tmp_path):
    WRITERS["camvid"](tmp_path, images=1)
    (tmp_path / IMAGE).chmod(0)
    with pytest.raises(UserError, match=r"images/train/0.png cannot be read \(Permission denied\)"):
        open_source("camvid", tmp_path)[0]


def test_a_file_that_goes_away_is_named(tmp_path):
    source = open_source("camvid", WRITERS["camvid"](tmp_path, images=1))
    (tmp_path / IMAGE).unlink()
    (tmp_path / IMAGE).mkdir()
    with pytest.raises(UserError, match=r"images/train/0.png cannot be read \(Is a directory\)"):
        source[0]


def test_a_rotated_image_whose_label_is_not_says_so(tmp_path):
    root = WRITERS["ade20k"](tmp_path, images=4)
    path = next((root / "annotations/training").glob("*4.png"))
    write(path, np.array(Image.open(path)).T.copy())
    with pytest.raises(UserError, match="upright, by its EXIF data"):
        open_source("ade20k", root)[3]


def test_an_id_cityscapes_does_not_have_is_refused(tmp_path):
    source = open_source("cityscapes", WRITERS["cityscapes"](tmp_path, images=1))
    write(source.pairs[0][1], np.full((64, 128), 40, np.uint8))
    with pytest.raises(UserError, match="label 40 at row 0, column 0.* 0 to 33"):
        source[0]


@pytest.mark.parametrize(
    ("spoil", "split", "words"),
    [
        (
            lambda d: (d / LISTS / "aug.txt").unlink(),
            "aug",
            "no list .*aug.txt.*SegmentationClassAug",
        ),
        (lambda d: (d / LISTS / "train.txt").write_text("\n"), "train", "names no image"),
        (
            lambda d: (d / LISTS / "train.txt").write_bytes(b"\xff\xfe"),
            "train",
            "as a list of names",
        ),
        (
            lambda d: (d / LISTS / "train.txt").write_text("2007_999999\n"),
            "train",
            "train.txt names .*2007_999999.jpg, which is not there",
        ),
        (
            lambda d: [p.unlink() for p in (d / "SegmentationClass").iterdir()],
            "val",
            "has no label .*SegmentationClass/",
        ),
    ],
)
def test_voc_lists_and_files_that_do_not_fit(tmp_path, spoil, split, words):
    spoil(WRITERS["voc2012"](tmp_path) or tmp_path)
    with pytest.raises(UserError, match=words):
        open_source("voc2012", tmp_path, split)


@pytest.mark.parametrize(
    ("name", "folder", "split", "words"),
    [
        ("cityscapes", "", "train", "pass --config.data.dir=FOLDER.*leftImg8bit"),
        ("cityscapes", "/nowhere", "train", "/nowhere is not a folder.*gtFine"),
        ("camvid", "/nowhere", "train", "/nowhere is not a folder"),
        ("ade20k", "/usr", "train", "/usr/images/training is not a folder.*ADEChallengeData2016.zip"),
        ("voc2012", "/usr", "val", "no list /usr/ImageSets/Segmentation/val.txt.*VOCdevkit"),
        ("streets", "", "night", "streets has the splits train, val, test, not 'night'"),
        ("cityscapes", "/usr", "train+dusk", "cityscapes has the splits|leftImg8bit"),
        ("kitti", "", "train", "'kitti' does not exist; choose one of ade20k"),
    ],
)
def test_missing_data_says_what_to_put_where(name, folder, split, words):
    with pytest.raises(UserError, match=words):
        open_source(name, folder, split)
