"""A user's own images: usual layouts, classes from files and from ids, and a message for what is wrong."""

import json
import re
import unicodedata

import numpy as np
import pytest
from PIL import Image

from ccnet_jax import prepare
from ccnet_jax.common.errors import UserError
from ccnet_jax.data import layouts, pipeline
from ccnet_jax.data.config import DataConfig
from ccnet_jax.data.datasets import DATASETS, folder
from ccnet_jax.data.images import UnusableImage
from ccnet_jax.data.sources import Location, MissingSplit, OtherClasses
from tests.miniatures import ORIENTATION, scene, write

pytestmark = pytest.mark.slow

COLOURS = np.array([(10, 20, 30), (0, 255, 0), (200, 0, 0)], np.uint8)
COLOUR_FILE = "soil 10 20 30\ncrop #00ff00\nweed 200, 0, 0\n"


def ids(i=0, size=(40, 48)):
    """A label of the ids 0, 1, 2 and 255."""
    return np.random.default_rng(i).choice(np.array([0, 1, 2, 255], np.uint8), size)


def write_pair(image, label, i=0, numbers=None, **options):
    numbers = ids(i) if numbers is None else numbers
    write(image, scene(i, *numbers.shape[:2])[0])
    write(label, numbers, **options)


def write_usual(root, splits=("train", "val"), count=3, images="images", labels="labels"):
    """images/SPLIT/I.png and labels/SPLIT/I.png."""
    for split in splits:
        for i in range(count):
            write_pair(root / images / split / f"{i}.png", root / labels / split / f"{i}.png", i)
    return root


def open_folder(root, split="train", **changes):
    return pipeline.open_source(DataConfig(name="folder", dir=str(root), **changes), split)


def summary(root, split="train", **changes):
    data = DataConfig(name="folder", dir=str(root), **changes)
    return pipeline.summary(data, pipeline.open_source(data, split), split)


def names(source):
    return [source.name(i) for i in range(len(source))]


# ----------------------------------------------------------------- layouts

LAYOUTS = [
    ("images/train/{}.jpg", "labels/train/{}.png", "images/val/{}.jpg", "labels/val/{}.png"),
    ("Images/Training/{}.PNG", "masks/training/{}.png", "Images/Validation/{}.PNG", "masks/valid/{}.png"),
    ("img_dir/train/{}.jpg", "ann_dir/train/{}.png", "img_dir/val/{}.jpg", "ann_dir/val/{}.png"),
    ("img/train/{}.tif", "annotations/train/{}.tif", "img/val/{}.bmp", "annotations/val/{}.bmp"),
    ("train/images/{}.jpeg", "train/labels/{}.png", "valid/images/{}.jpeg", "valid/labels/{}.png"),
    ("train/images/{}.webp", "train/masks/{}_mask.png", "val/images/{}.webp", "val/masks/{}_mask.png"),
    ("train/{}.png", "trainannot/{}.png", "val/{}.png", "valannot/{}.png"),
    ("train/{}.png", "train_labels/{}_L.png", "val/{}.png", "val_labels/{}_L.png"),
    ("train/{}.jpg", "train/{}.png", "valid/{}.jpg", "valid/{}.png"),
    ("train/{}.png", "train/{}_mask.png", "valid/{}.png", "valid/{}_mask.png"),
    ("images/train/{}.jpg", "labels/{}.png", "images/val/v{}.jpg", "labels/v{}.png"),
    ("unpacked/images/train/{}.jpg", "unpacked/labels/train/{}.png", *("unpacked/images/val/{}.jpg",) * 0,
     "unpacked/images/val/{}.jpg", "unpacked/labels/val/{}.png"),
    ("images/train/a/{}.jpg", "labels/train/a/{}.png", "images/val/b/c/{}.jpg", "labels/val/b/c/{}.png"),
]  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout[0])
def test_usual_layouts_are_found(tmp_path, layout):
    for i in range(2):
        write_pair(tmp_path / layout[0].format(i), tmp_path / layout[1].format(i), i)
        write_pair(tmp_path / layout[2].format(i), tmp_path / layout[3].format(i), i + 5)
    for split, first in (("train", 0), ("val", 5)):
        source = open_folder(tmp_path, split)
        assert len(source) == 2
        assert len(source.classes) == 3
        for i in range(2):
            np.testing.assert_array_equal(source[i]["label"], ids(first + i))
            true = scene(first + i, 40, 48)[0]
            assert np.abs(source[i]["image"].astype(int) - true).mean() < 20  # a lossy file's own loss
    with pytest.raises(MissingSplit, match="no split 'test'"):
        open_folder(tmp_path, "test")


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC"), ("NFD", "NFD")], ids="-".join)
@pytest.mark.parametrize(
    "label", ["labels/train/{}.png", "labels/train/{}_mask.png", "images/train/{}_mask.png"]
)
def test_names_that_a_copy_has_decomposed_are_the_same_names(tmp_path, label, forms):
    """A Mac's archive has NFD where an annotation tool wrote NFC; a list may have either."""
    image_form, label_form = forms
    for i, name in enumerate(("Zürich", "Málaga", "плащ-й")):
        image = unicodedata.normalize(image_form, f"images/train/{name}.jpg")
        write_pair(tmp_path / image, tmp_path / unicodedata.normalize(label_form, label.format(name)), i)
    source = open_folder(tmp_path, "train")
    assert len(source) == 3


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")], ids="-".join)
def test_a_list_may_be_composed_otherwise_than_the_files(tmp_path, forms):
    here, listed = (unicodedata.normalize(form, "Zürich") for form in forms)
    for name in (here, "Bern"):
        write_pair(tmp_path / f"JPEGImages/{name}.jpg", tmp_path / f"SegmentationClass/{name}.png", 1)
    (tmp_path / "train.txt").write_text(f"{listed}\n")
    assert len(open_folder(tmp_path, "train")) == 1


@pytest.mark.parametrize("label", ["{}.png", "{}_mask.png"])
def test_images_and_labels_in_one_folder(tmp_path, label):
    for i in range(20):
        write_pair(tmp_path / f"{i}.jpg", tmp_path / label.format(i), i)
    parts = [open_folder(tmp_path, split, val_fraction=0.3) for split in ("train", "val")]
    assert sorted(names(parts[0]) + names(parts[1])) == sorted(map(str, range(20)))


@pytest.mark.parametrize("lists", ["ImageSets/Segmentation", "ImageSets", "."])
def test_lists_assign_images_to_splits(tmp_path, lists):
    for i in range(4):
        write_pair(tmp_path / f"JPEGImages/p.{i}.jpg", tmp_path / f"SegmentationClass/p.{i}.png", i)
    (tmp_path / lists).mkdir(parents=True, exist_ok=True)
    (tmp_path / lists / "train.txt").write_text(
        "p.2\np.0.jpg\n\nJPEGImages/p.1.jpg SegmentationClass/p.1.png\n"
    )
    (tmp_path / lists / "val.txt").write_text("p.3\n")
    assert names(open_folder(tmp_path)) == ["p.2", "p.0", "p.1"]
    assert names(open_folder(tmp_path, "val")) == ["p.3"]
    (tmp_path / lists / "val.txt").write_text("p.9\n")
    with pytest.raises(UserError, match="val.txt names p.9, which is not in .*JPEGImages; add the image"):
        open_folder(tmp_path, "val")


def test_any_other_layout_is_two_patterns(tmp_path):
    write_usual(tmp_path, ("day", "night"), images="a/shots", labels="b")
    patterns = {"images": "a/shots/{split}", "labels": "b/{split}"}
    assert names(open_folder(tmp_path, "day", **patterns)) == ["0", "1", "2"]
    assert len(open_folder(tmp_path, "day+night", **patterns)) == 6
    with pytest.raises(UserError, match="has no folders of a known layout .it holds a/, b/.; set --config.d"):
        open_folder(tmp_path)
    with pytest.raises(UserError, match="data.images and config.data.labels go together"):
        open_folder(tmp_path, images="a/shots/{split}")
    with pytest.raises(UserError, match="has a {split} but config.data.images='a/shots/day' has none"):
        open_folder(tmp_path, images="a/shots/day", labels="b/{split}")
    with pytest.raises(
        MissingSplit, match="no split 'dusk': a/shots/{split} exists for day, night; --config.d"
    ):
        open_folder(tmp_path, "dusk", **patterns)
    with pytest.raises(UserError, match="a/shots/day holds images but .* is not a folder|no split"):
        open_folder(tmp_path, "train", images="a/shots/day", labels="c")


def test_a_test_split_needs_no_labels(tmp_path):
    write_usual(tmp_path)
    write(tmp_path / "images/test/7.jpg", scene(0, 40, 48)[0])
    source = open_folder(tmp_path, "test")
    assert (source[0]["label"] == 255).all()
    assert "1 image\n" in summary(tmp_path, "test")
    assert "without labels" in summary(tmp_path, "test")
    write(tmp_path / "images/val2/7.jpg", scene(0, 40, 48)[0])


# -------------------------------------------------------------- val_fraction


def write_flat(root):
    for i in range(40):
        write_pair(root / f"images/{i}.png", root / f"labels/{i}.png", i)
    return root


def test_a_fraction_of_train_becomes_val_and_stays_it(tmp_path):
    write_flat(tmp_path)
    with pytest.raises(MissingSplit, match="no split 'val'.*--config.data.val_fraction=0.1 makes val"):
        open_folder(tmp_path, "val")
    assert len(open_folder(tmp_path)) == 40
    train, val = (names(open_folder(tmp_path, split, val_fraction=0.2)) for split in ("train", "val"))
    assert sorted(train + val) == sorted(map(str, range(40)))
    assert 3 <= len(val) <= 13
    write_pair(tmp_path / "images/more.png", tmp_path / "labels/more.png")
    assert set(names(open_folder(tmp_path, "val", val_fraction=0.2))) - {"more"} == set(val)
    assert set(val) <= set(names(open_folder(tmp_path, "val", val_fraction=0.5)))
    with pytest.raises(
        UserError, match="val_fraction=1e-06 of 41 images leaves none for val; choose a larger"
    ):
        open_folder(tmp_path, "val", val_fraction=1e-6)
    with pytest.raises(
        UserError, match="val_fraction=0.99999 of 41 images leaves none for train; choose a sm"
    ):
        open_folder(tmp_path, "train", val_fraction=0.99999)


def test_val_fraction_where_there_is_a_train_folder_only(tmp_path):
    write_usual(tmp_path, ("train",), count=20)
    with pytest.raises(MissingSplit, match="exists for train; .*val_fraction=0.1 makes val of a tenth"):
        open_folder(tmp_path, "val")
    parts = [open_folder(tmp_path, split, val_fraction=0.3) for split in ("train", "val")]
    assert sorted(names(parts[0]) + names(parts[1])) == sorted(map(str, range(20)))
    write_usual(tmp_path, ("val",))
    with pytest.raises(UserError, match="has a split val of its own .*remove --config.data.val_fraction=0.3"):
        open_folder(tmp_path, "val", val_fraction=0.3)


def test_fractions_of_names_are_even_and_fixed():
    fractions = [layouts.hash_fraction(f"image-{i}") for i in range(2000)]
    assert 0.07 < np.mean(np.array(fractions) < 0.1) < 0.13
    assert layouts.hash_fraction("a") == pytest.approx(0.7913743, abs=1e-6)


# ------------------------------------------------------------------ classes


def test_ids_are_counted_over_all_splits(tmp_path):
    write_usual(tmp_path)
    write_pair(tmp_path / "images/val/9.png", tmp_path / "labels/val/9.png", numbers=ids() % 2 * 5)
    for split in ("train", "val"):
        source = open_folder(tmp_path, split)
        assert source.classes == tuple(f"class {i}" for i in range(6))
        assert source.palette[1].tolist() == [128, 0, 0]
    text = summary(tmp_path, "val")
    assert text.startswith("folder, val: 4 images\n  in images/val and labels/val, 48x40 pixels\n")
    assert "6 classes counted from the ids in the labels:" in text
    assert re.search(r"class 4 +never", text)
    assert re.search(r"class 5 +\d", text)
    assert re.search(r"void: \d+\.\d % of all pixels", text)


@pytest.mark.parametrize("name", ["classes.txt", "classes.json", "class_names.txt"])
def test_names_come_from_a_file(tmp_path, name):
    write_usual(tmp_path)
    text = '["soil", "traffic light", "weed"]' if name.endswith("json") else "soil\ntraffic light\n\nweed\n"
    (tmp_path / name).write_text(text)
    source = open_folder(tmp_path)
    assert source.classes == ("soil", "traffic light", "weed")
    np.testing.assert_array_equal(source[1]["label"], ids(1))
    assert f"3 classes from {tmp_path / name}" in summary(tmp_path)
    assert open_folder(tmp_path, classes=source.classes).classes == source.classes
    for given in (("a", "b", "c"), source.classes[::-1], ("void", *source.classes)):
        with pytest.raises(OtherClasses, match=f"{given[-1]}, and .*{name} .* 2 weed; omit config.data.cl"):
            open_folder(tmp_path, classes=given)


def write_colours(root, void=(0, 0, 0)):
    table = np.zeros((256, 3), np.uint8)
    table[: len(COLOURS)], table[255] = COLOURS, void
    for split in ("train", "val"):
        for i in range(3):
            write_pair(root / f"images/{split}/{i}.png", root / f"labels/{split}/{i}.png", i, table[ids(i)])
    return root


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("classes.txt", f"# my classes\nvoid 0 0 0\n{COLOUR_FILE}"),
        (
            "classes.json",
            '{"soil": [10, 20, 30], "crop": [0, 255, 0], "weed": [200, 0, 0], "Void": [0, 0, 0]}',
        ),
        (
            "classes.json",
            '{"classes": ["soil", "_unlabeled_", "crop", "weed"], '
            '"palette": [[10, 20, 30], [0, 0, 0], [0, 255, 0], [200, 0, 0]]}',
        ),
        ("labelmap.txt", "# label:color\nsoil:10,20,30::\ncrop:0,255,0::\nweed:200,0,0::\nvoid:0,0,0::\n"),
    ],
)
def test_colour_labels(tmp_path, name, text):
    write_colours(tmp_path)
    (tmp_path / name).write_text(text)
    source = open_folder(tmp_path)
    assert source.classes == ("soil", "crop", "weed")
    np.testing.assert_array_equal(source.palette, COLOURS)
    for i in range(3):
        np.testing.assert_array_equal(source[i]["label"], ids(i))
    assert "3 classes from" in summary(tmp_path)


def test_colours_from_the_config(tmp_path):
    write_colours(tmp_path)
    colours = tuple(map(tuple, COLOURS.tolist()))
    given = {"classes": ("soil", "crop", "weed", "ignore"), "palette": (*colours, (0, 0, 0))}
    np.testing.assert_array_equal(open_folder(tmp_path, **given)[0]["label"], ids())


def test_an_unknown_colour_is_named_with_its_place(tmp_path):
    write_colours(tmp_path, void=(1, 2, 3))
    (tmp_path / "classes.txt").write_text(COLOUR_FILE)
    y, x = np.argwhere(ids() == 255)[0]
    with pytest.raises(
        UserError,
        match=rf"train/0.png holds the colour \(1, 2, 3\) at row {y}, column {x}, .* of the 3 colours",
    ):
        open_folder(tmp_path)[0]
    with pytest.raises(UserError, match=r"holds the colour \(1, 2, 3\)"):
        summary(tmp_path)


def test_colour_labels_whose_colours_nothing_gives(tmp_path):
    write_colours(tmp_path)
    words = (
        "0.png is a colour image, .* classes.txt with lines NAME RED GREEN BLUE .* 0 0 0, 0 255 0, 10 20 30"
    )
    with pytest.raises(UserError, match=words):
        open_folder(tmp_path)
    (tmp_path / "classes.txt").write_text("a\nb\nc\n")
    with pytest.raises(UserError, match=words):
        open_folder(tmp_path)
    (tmp_path / "classes.txt").write_text("a 10 20 30\nb 10 20 30\nc 0 0 0\n")  # two of one colour
    with pytest.raises(UserError, match=words):
        open_folder(tmp_path)


@pytest.mark.parametrize("rgb", [False, True])
def test_grey_masks_of_0_and_255(tmp_path, rgb):
    for i in range(3):
        mask = np.where(ids(i) == 1, 255, 0).astype(np.uint8)
        write_pair(tmp_path / f"images/{i}.png", tmp_path / f"masks/{i}.png", i,
                   np.dstack([mask] * 3) if rgb else mask)  # fmt: skip
    with pytest.raises(
        UserError, match="colour image" if rgb else "only the numbers 0, 255 .* `object 255 255"
    ):
        open_folder(tmp_path)
    (tmp_path / "classes.txt").write_text("background 0 0 0\nobject 255 255 255\n")
    source = open_folder(tmp_path)
    np.testing.assert_array_equal(source[2]["label"], ids(2) == 1)
    assert source.numbers.tolist() == ([0, 255])
    assert "void: 0.0 %" in summary(tmp_path)


def test_a_class_with_a_void_name_is_void(tmp_path):
    write_usual(tmp_path)
    (tmp_path / "classes.txt").write_text("soil\nunlabelled\nweed\n")
    source = open_folder(tmp_path)
    assert source.classes == ("soil", "weed")
    assert source.numbers.tolist() == [0, 2]
    wanted = np.select([ids() == 0, ids() == 2], [0, 1], 255)
    np.testing.assert_array_equal(source[0]["label"], wanted)
    assert re.search(r"void: (4[5-9]|5\d)\.\d %", summary(tmp_path))


def test_palette_and_16_bit_labels_give_their_numbers(tmp_path):
    write_usual(tmp_path)
    write(
        tmp_path / "labels/train/0.png",
        ids(0),
        palette=np.arange(768, dtype=np.uint16).astype(np.uint8).tobytes(),
    )
    write(tmp_path / "labels/train/1.png", ids(1).astype(np.uint16))
    (tmp_path / "labels/train/2.png").unlink()
    Image.fromarray(ids(2) % 3).save(tmp_path / "labels/train/2.bmp")
    source = open_folder(tmp_path)
    assert "3 classes" in summary(tmp_path, "val")
    np.testing.assert_array_equal(source[0]["label"], ids(0))
    np.testing.assert_array_equal(source[1]["label"], ids(1))
    write(tmp_path / "labels/train/1.png", ids(1).astype(np.uint16) + 1000)
    with pytest.raises(UserError, match="train/1.png holds the number 1255"):
        open_folder(tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("road\n", "classes.txt names 1 classes; to tell classes apart takes at least two"),
        ("road\ncar\nroad\n", "names the class 'road' twice"),
        ("road 1 2 3\ncar\n", "has no colour for 'car', but others have one; give all or none"),
        ("road 1 2 300\ncar 1 2 3\n", r"holds the colour \[1, 2, 300\]; a colour is three whole numbers"),
        ("\n".join(f"class-{i}" for i in range(255)), "names 255 classes; at most"),
        ({"road": 1, "car": [1, 2, 3]}, "holds the colour 1;"),
        ([1, 2], "holds no list of class names; write it as"),
        ({"classes": ["a", "b"], "palette": [[1, 2, 3]]}, "one colour for each of its 2 classes"),
    ],
)
def test_class_files_that_are_wrong(tmp_path, text, words):
    write_usual(tmp_path)
    if isinstance(text, str):
        (tmp_path / "classes.txt").write_text(text)
    else:
        (tmp_path / "classes.json").write_text(json.dumps(text))
    with pytest.raises(UserError, match=words) as error:
        open_folder(tmp_path)
    assert "\n" not in str(error.value)


def test_class_files_that_cannot_be_read(tmp_path):
    write_usual(tmp_path)
    (tmp_path / "classes.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(UserError, match="classes.txt cannot be read as text"):
        open_folder(tmp_path)
    (tmp_path / "classes.json").write_text("{")
    with pytest.raises(UserError, match="has both classes.txt and classes.json; keep the one"):
        open_folder(tmp_path)
    (tmp_path / "classes.txt").unlink()
    with pytest.raises(UserError, match="classes.json cannot be read as JSON"):
        open_folder(tmp_path)


# ---------------------------------------------- what went wrong without a word


def both(root):
    write(root / "images/train/1.jpg", scene(0, 40, 48)[0])


def two_labels(root):
    write(root / "labels/train/1.tif", ids())


def jpeg_as_png(root):
    Image.fromarray(ids()).save(root / "labels/train/1.png", "JPEG")


def lossy_labels(root):
    for path in (root / "labels/train").iterdir():
        Image.fromarray(ids()).save(path.with_suffix(".jpg"))
        path.unlink()


def all_void(root):
    (root / "classes.txt").write_text("a\nb\nc\n")
    for path in (root / "labels/train").iterdir():
        write(path, np.full((40, 48), 255, np.uint8))


def nothing_but_void(root):
    for path in root.glob("labels/*/*"):
        write(path, np.full((40, 48), 255, np.uint8))


def one_id(root):
    for path in root.glob("labels/*/*"):
        write(path, np.zeros((40, 48), np.uint8))


def id_254(root):
    write(root / "labels/val/1.png", np.full((40, 48), 254, np.uint8))


def too_many_ids(root):
    (root / "classes.txt").write_text("a\nb\n")


def other_size(root):
    write(root / "labels/train/1.png", ids(size=(48, 40)))


def other_names(root):
    for path in (root / "labels/train").iterdir():
        path.rename(path.with_stem(f"x{path.stem}"))


def lost_images(root):
    for i in (0, 1):
        (root / f"images/train/{i}.png").unlink()


def no_images(root):
    for path in (root / "images/train").iterdir():
        path.rename(path.with_suffix(".gif"))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (both, "train/1.jpg and .*train/1.png have the same name .* remove or rename one of them"),
        (two_labels, "labels/train/1.png and .*labels/train/1.tif have the same name"),
        (
            jpeg_as_png,
            "labels/train/1.png is a JPEG, whatever its name says: .* export the label again as PNG",
        ),
        (lossy_labels, "labels/train holds no label file of .png.*0.jpg is lossy.* export the labels as PNG"),
        (all_void, "all 3 labels in .*labels/train are void .255. everywhere: there is nothing to learn"),
        (nothing_but_void, "hold only the numbers 255 .* nothing to learn"),
        (one_id, "hold only the numbers 0 .* nothing to learn"),
        (id_254, "hold the number 254; class ids go from 0 to 253"),
        (
            too_many_ids,
            "train/0.png holds the label 2 at row .* 0 to 1 .*classes.txt or with --config.data.classes",
        ),
        (other_size, "images/train/1.png is 48x40 pixels .* its label .*labels/train/1.png is 40x48"),
        (
            other_names,
            "3 of the 3 images in .* have no label in .*no 0.png for 0.png, but for example x0.png",
        ),
        (lost_images, "2 of the 3 labels in .*labels/train have no image in .* as 0.png, 1.png"),
        (no_images, "images/train holds no image .*.jpg, .jpeg, .png"),
        (
            lambda d: (d / "labels/train").rename(d / "labels/more"),
            "holds images but .*labels/train is not a f",
        ),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_mistakes_are_one_message(tmp_path, spoil, words):
    spoil(write_usual(tmp_path))
    with pytest.raises(UserError, match=words) as error:
        summary(tmp_path)
    assert "\n" not in str(error.value)


def test_what_is_left_out_is_counted(tmp_path):
    write_usual(tmp_path, count=5)
    (tmp_path / "images/train/._3.png").write_bytes(b"Mac OS X")
    (tmp_path / "labels/train/._3.png").write_bytes(b"Mac OS X")
    (tmp_path / "images/train/.DS_Store").write_bytes(b"")
    (tmp_path / "images/train/photo.heic").write_bytes(b"")
    (tmp_path / "images/train/notes.txt").write_text("")
    (tmp_path / "labels/train/0.png").unlink()
    (tmp_path / "images/train/4.png").unlink()
    write(tmp_path / "labels/train/1_colour.png", np.zeros((40, 48, 3), np.uint8))
    lines = summary(tmp_path).splitlines()
    warnings = [line.strip() for line in lines if "warning" in line]
    assert lines[0] == "folder, train: 3 images"
    images, labels = tmp_path / "images/train", tmp_path / "labels/train"
    mac, read = "1 left out, which macOS wrote beside the images (._3.png)", layouts.IMAGE_SUFFIXES
    assert warnings == [
        f"warning: {images}: {mac}",
        f"warning: {images}: 1 left out, because only {', '.join(read)} are read (photo.heic)",
        f"warning: {labels}: {mac}",
        f"warning: {images}: 1 without a label, left out (0.png)",
        f"warning: {labels}: 1 without an image, left out (4.png)",
    ]


def test_a_split_of_one_class_is_warned_about(tmp_path):
    write_usual(tmp_path)
    for path in (tmp_path / "labels/val").iterdir():
        write(path, np.ones((40, 48), np.uint8))
    assert "'class 1' is the only class that occurs" in summary(tmp_path, "val")


def test_ids_that_look_like_noise_are_warned_about(tmp_path):
    write_usual(tmp_path)
    label = np.zeros((400, 480), np.uint8)
    label[0, :100] = np.arange(100)
    write_pair(tmp_path / "images/train/1.png", tmp_path / "labels/train/1.png", numbers=label)
    assert "were the labels once JPEGs, or resized?" in summary(tmp_path)


def test_images_of_mixed_sizes_and_turned_ones(tmp_path):
    write_usual(tmp_path)
    write_pair(tmp_path / "images/train/7.jpg", tmp_path / "labels/train/7.png", numbers=ids(size=(60, 96)))
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    turned = np.ascontiguousarray(np.rot90(scene(0, 40, 48)[0]))
    write(tmp_path / "images/train/8.jpg", turned, exif=exif, quality=95)
    write(tmp_path / "labels/train/8.png", ids())
    assert "48x40 to 96x60 pixels" in summary(tmp_path)
    assert open_folder(tmp_path)[4]["image"].shape == (40, 48, 3)


def test_the_summary_of_two_splits_has_both(tmp_path):
    text = summary(write_usual(tmp_path), "train+val")
    assert text.startswith("folder, train+val: 6 images")
    assert "in images/train and labels/train" in text
    assert "in images/val and labels/val" in text


def test_many_labels_are_counted_in_part(tmp_path, monkeypatch):
    monkeypatch.setattr(folder, "COUNTED", 2)
    assert "(in 2 of 3 labels):" in summary(write_usual(tmp_path))


def test_a_corrupt_label_does_not_keep_a_run_from_starting_again(tmp_path):
    write_usual(tmp_path)
    (tmp_path / "labels/train/0.png").write_bytes(b"")
    with pytest.raises(UnusableImage, match="labels/train/0.png is empty"):
        open_folder(tmp_path)
    assert "3 classes counted" in summary(tmp_path, skip_corrupt=1)
    (tmp_path / "classes.txt").write_text("a\nb\nc\n")
    with pytest.raises(UnusableImage, match="labels/train/0.png is empty"):
        open_folder(tmp_path)
    assert len(open_folder(tmp_path, skip_corrupt=1)) == 3
    (tmp_path / "labels/train/2.png").write_bytes(b"")
    with pytest.raises(UnusableImage, match="labels/train/2.png is empty"):
        summary(tmp_path, skip_corrupt=1)


def test_names_below_folders_are_fit_for_file_names(tmp_path):
    write_pair(tmp_path / "images/train/a/b/0.png", tmp_path / "labels/train/a/b/0.png")
    assert names(open_folder(tmp_path)) == ["a-b-0"]


def test_training_batches_of_a_folder(tmp_path):
    data = DataConfig(name="folder", dir=str(write_usual(tmp_path)), crop=(32, 32), workers=1)
    batch = next(pipeline.train_batches(pipeline.open_source(data, "train"), data, 2, seed=0))
    assert batch["image"].shape == (2, 32, 32, 3)


# ------------------------------------------------------------------ prepare


@pytest.mark.parametrize("colours", [False, True])
def test_a_prepared_folder_holds_class_indices(tmp_path, colours):
    root = tmp_path / "data"
    if colours:
        write_colours(root)
        (root / "classes.txt").write_text(f"void 0 0 0\n{COLOUR_FILE}")
    else:
        write_usual(root)
    prepare.prepare("folder", Location(dir=str(root)), str(tmp_path / "out"))
    data = DataConfig(name="folder", dir=str(tmp_path / "out"), source="tfds")
    for split in ("train", "val"):
        there, here = pipeline.open_source(data, split), open_folder(root, split)
        assert there.classes == here.classes
        np.testing.assert_array_equal(there.palette, here.palette)
        assert names(there) == names(here)
        for i in range(3):
            np.testing.assert_array_equal(there[i]["label"], here[i]["label"])
            np.testing.assert_array_equal(there[i]["image"], here[i]["image"])
    (root / "classes.txt").write_text(f"{COLOUR_FILE}void 0 0 0\n".replace("soil", "earth"))
    with pytest.raises(UserError, match="was prepared with other classes"):
        prepare.prepare("folder", Location(dir=str(root)), str(tmp_path / "out"))


# ------------------------------------------------------------------- config


@pytest.mark.parametrize(
    "name", [name for name, data_set in DATASETS.items() if data_set.classes is not None]
)
def test_other_data_sets_refuse_the_keys_of_folder(name):
    assert DataConfig(name=name).problems() == []
    (problem,) = DataConfig(name=name, val_fraction=0.1).problems()
    assert problem == f"config.data.val_fraction is for data.name=folder; {name} needs none: leave it None"


def test_tfds_has_splits_of_its_own():
    (problem,) = DataConfig(name="folder", source="tfds", val_fraction=0.1).problems()
    assert problem.startswith("config.data.val_fraction is for data.source=folder; leave it None")


def test_several_void_colours_may_be_one_colour(tmp_path):
    write_colours(tmp_path)
    (tmp_path / "classes.txt").write_text(COLOUR_FILE + "void 0 0 0\nunlabeled 0 0 0\n")
    source = open_folder(tmp_path)
    assert source.classes == ("soil", "crop", "weed")
    assert set(np.unique(source[0]["label"])) <= {0, 1, 2, 255}


def test_class_ids_with_gaps_are_a_warning(tmp_path):
    write_usual(tmp_path)
    for split in ("train", "val"):
        numbers = np.where(ids() == 2, 9, ids())
        write_pair(tmp_path / f"images/{split}/0.png", tmp_path / f"labels/{split}/0.png", 0, numbers)
    assert "7 of the 10 class ids occur in none of these labels" in summary(tmp_path) or (
        "6 of the 10 class ids occur in none of these labels" in summary(tmp_path)
    )


@pytest.mark.parametrize("name", layouts._IMAGES)
def test_every_usual_name_of_a_folder_of_images_is_found(name, tmp_path):
    write_usual(tmp_path, images=name)
    assert len(open_folder(tmp_path, "train")) == 3
    assert len(set(layouts._IMAGES)) == len(layouts._IMAGES)
