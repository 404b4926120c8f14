import dataclasses
import json
import unicodedata

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from ccnet_jax.common.errors import UserError
from ccnet_jax.common.files import as_spelled
from ccnet_jax.data.datasets import coco
from ccnet_jax.data.images import UnusableImage
from ccnet_jax.data.instances import InstanceSource
from ccnet_jax.data.sources import Location, MissingSplit

HEIGHT, WIDTH = 30, 40


def runs(mask):
    """A mask as the uncompressed runs that COCO's crowds have: zeros first, column by column."""
    flat = mask.T.ravel()
    changes = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *changes, flat.size]).tolist()
    return {"size": list(mask.shape), "counts": [0, *counts] if flat[0] else counts}


CROWD = np.zeros((HEIGHT, WIDTH), np.uint8)
CROWD[5:12, 20:31] = 1


def content():
    """Two classes whose ids have a gap; an image with three objects, one without any, a grey one."""
    return {
        "categories": [{"id": 7, "name": "boat"}, {"id": 3, "name": "kite"}],
        "images": [
            {"id": number, "file_name": name, "height": HEIGHT, "width": WIDTH}
            for number, name in ((12, "b.png"), (5, "a.png"), (9, "grey.png"))
        ],
        "annotations": [
            {
                "id": 1,
                "image_id": 12,
                "category_id": 7,
                "bbox": [2, 3, 10, 8],
                "area": 80,
                "iscrowd": 0,
                "segmentation": [[2, 3, 12, 3, 12, 11, 2, 11]],
            },
            {
                "id": 2,
                "image_id": 12,
                "category_id": 3,
                "bbox": [20, 5, 11, 7],
                "area": 77,
                "iscrowd": 1,
                "segmentation": runs(CROWD),
            },
            {
                "id": 4,
                "image_id": 12,
                "category_id": 3,
                "bbox": [30.5, 20, 20, 5],  # beyond the edge
                "segmentation": [[31, 20, 39, 20, 39, 25], [33, 26, 38, 26, 38, 29, 33, 29]],
            },
            {
                "id": 8,
                "image_id": 9,
                "category_id": 7,
                "bbox": [1, 1, 0, 5],
                "segmentation": [[1, 1, 1, 1, 1, 6]],
            },
        ],
    }


@pytest.fixture
def write(tmp_path):
    """A function that writes a data set with other content, and returns its location."""

    def written(content):
        for name in ("annotations", "val2017"):
            (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
        colour = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        colour[..., 2] = 200  # red, for OpenCV
        for name in ("a.png", "b.png"):
            cv2.imwrite(str(tmp_path / "val2017" / name), colour)
        cv2.imwrite(str(tmp_path / "val2017" / "grey.png"), colour[..., 2])
        return Location(dir=str(tmp_path))

    return written


def test_images_have_their_objects(write):
    source = coco.open_split(write(content()), "val2017")
    assert isinstance(source, InstanceSource)
    assert (source.classes, source.class_ids) == (("kite", "boat"), (3, 7))
    assert len(source) == 3
    assert (source.name(0), source.image_id(0), source.size(0)) == ("b", 12, (HEIGHT, WIDTH))
    assert [source.count(i) for i in range(3)] == [2, 0, 0]
    np.testing.assert_array_equal(source[0]["image"][0, 0], [200, 0, 0])
    objects = source.objects(0)
    np.testing.assert_array_equal(objects.classes, [1, 0, 0])
    np.testing.assert_array_equal(objects.boxes, [[2, 3, 12, 11], [20, 5, 31, 12], [30.5, 20, 40, 25]])
    np.testing.assert_array_equal(objects.crowd, [False, True, False])
    wanted = np.zeros((HEIGHT, WIDTH), np.uint8)
    wanted[3:11, 2:12] = 1
    np.testing.assert_array_equal(objects.masks[0], wanted)
    np.testing.assert_array_equal(objects.masks[1], CROWD)
    assert objects.masks[2][22, 37] == objects.masks[2][27, 35] == 1  # both of its polygons
    assert objects.areas.tolist()[:2] == [80, 77]
    assert objects.areas[2] == objects.masks[2].sum()  # the file does not say it


def test_images_may_have_no_objects_and_may_be_grey(write):
    source = coco.open_split(write(content()), "val2017")
    for index in (1, 2):  # the only object of the second has no area
        objects = source.objects(index)
        assert objects.boxes.shape == (0, 4)
        assert objects.masks == []
        assert source[index]["image"].shape == (HEIGHT, WIDTH, 3)
    assert source[2]["image"].min() == 200


def test_compressed_runs_are_read(write):
    changed = content()
    compressed = coco_mask.encode(np.asfortranarray(CROWD))
    changed["annotations"][1]["segmentation"] = {**compressed, "counts": compressed["counts"].decode()}
    objects = coco.open_split(write(changed), "val2017").objects(0)
    np.testing.assert_array_equal(objects.masks[1], CROWD)


def test_classes_can_be_chosen(write):
    location = write(content())
    source = coco.open_split(Location(dir=location.dir, classes=("boat",)), "val2017")
    assert (source.classes, source.class_ids) == (("boat",), (7,))
    np.testing.assert_array_equal(source.objects(0).classes, [0])
    with pytest.raises(UserError, match=r"classes names 'ship', and .*val2017\.json has only kite, boat"):
        coco.open_split(Location(dir=location.dir, classes=("boat", "ship")), "val2017")
    with pytest.raises(UserError, match="classes names 'boat' more than once; name each class once"):
        coco.open_split(Location(dir=location.dir, classes=("boat", "kite", "boat")), "val2017")


def changed(path, value):
    """The content with one value replaced, or removed where it is None."""
    result = content()
    *parents, last = path
    inner = result
    for key in parents:
        inner = inner[key]
    if value is None:
        del inner[last]
    else:
        inner[last] = value
    return result


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["annotations"], None, "has no list 'annotations'; test splits have no annotations to train on"),
        (["categories"], [], "names no category"),
        (["images", 1, "width"], None, "entry 1 of 'images' has no 'width'"),
        (["annotations", 0, "category_id"], 4, "annotation 1 is of category 4, which 'categories' does not"),
        (["annotations", 0, "image_id"], 4, "annotation 1 is of image 4, which 'images' does not list"),
        (["annotations", 0, "bbox"], [1, 2, 3], r"annotation 1 has the bbox \[1, 2, 3\], which must be"),
        (["annotations", 0, "bbox"], [50, 2, 3, 4], "annotation 1 has the bbox .*outside its image b.png"),
        (["annotations", 0, "segmentation"], [[1, 1, 5, 5]], "annotation 1 has a polygon of 2 points"),
        (["annotations", 0, "segmentation"], [], "annotation 1 has no segmentation"),
        (["annotations", 1, "segmentation", "size"], [40, 30], "annotation 2 has runs of the size"),
        (["images", 1, "file_name"], "c.png", r"names the image .*c\.png, which does not exist"),
        (["images", 1, "height"], 31, None),
        (["images", 1, "height"], "30", "entry 1 of 'images' has as 'height' \"30\"; it must be a file"),
        (["images", 1, "height"], 0, "image 5 is 40x0 pixels; correct it"),
        (
            ["images", 1, "width"],
            10**10,
            "image 5 has by its header 10000000000 x 30, more than 178,956,970",
        ),
        (
            ["images", 1, "file_name"],
            "../a.png",
            "image 5 has the file_name '../a.png', which leads out of",
        ),
        (
            ["images", 1, "file_name"],
            "/etc/a.png",
            "image 5 has the file_name '/etc/a.png', which leads out",
        ),
        (["images", 1, "file_name"], "x" * 5000, r"names the image .*x, which does not exist"),
        (["images", 1, "id"], [5], r"entry 1 of 'images' has as 'id' \[5\]"),
        (["categories", 0, "id"], "7", "entry 0 of 'categories' has as 'id' \"7\""),
        (["annotations", 0, "image_id"], [12], "entry 0 of 'annotations' has as 'image_id'"),
        (["annotations", 0, "bbox"], [1, 2, 1e300, 4], "annotation 1 has the bbox .*which must be"),
        (["annotations", 0, "bbox"], [1, 2, 10**400, 4], "annotation 1 has the bbox .*which must be"),
        (
            ["annotations", 0, "segmentation"],
            [["a"] * 6],
            "annotation 1 has a polygon that is not of numbers",
        ),
        (["annotations", 0, "segmentation"], [[0, 0, 1e9, 0, 0, 1e9]], "annotation 1 has .*far outside its"),
        (["annotations", 0, "segmentation"], [[0, 0, 9, 0, 0, float("nan")]], "annotation 1 has a polygon"),
        (["images", 1, "id"], 12, "'images' has the id 12 more than once; give each entry its own"),
        (["categories", 0, "id"], 3, "'categories' has the id 3 more than once"),
        (["categories", 0, "name"], "kite", "'categories' has the name kite more than once"),
        (["annotations", 0, "iscrowd"], "0", "annotation 1 has as 'iscrowd' \"0\", which must be 0 or 1"),
        (["annotations", 0, "area"], float("nan"), "annotation 1 has as 'area' NaN, which must be a number"),
        (["annotations", 0, "area"], "large", "annotation 1 has as 'area' \"large\", which must be"),
        (
            ["annotations", 1, "segmentation", "counts"],
            3,
            "annotation 2 has runs that are neither a list nor",
        ),
    ],
)
def test_a_wrong_file_is_one_message(write, path, value, message):
    location = write(changed(path, value))
    if message is None:  # found when the image is read
        source = coco.open_split(location, "val2017")
        with pytest.raises(UserError, match=r"a\.png is 40x30 pixels, but by its file 40x31"):
            source[1]
        return
    with pytest.raises(UserError, match=message):
        coco.open_split(location, "val2017")


def test_annotations_without_area_are_told(write):
    summary = coco.DATA_SET.summary
    whole = content()
    assert (
        summary(coco.open_split(write(whole), "val2017")) == "1 annotation is left out: its box has no area"
    )
    whole["annotations"] *= 2
    assert "2 annotations are left out" in summary(coco.open_split(write(whole), "val2017"))
    del whole["annotations"][3::4]
    assert summary(coco.open_split(write(whole), "val2017")) == ""


def test_a_split_to_predict_needs_no_annotations(write, tmp_path):
    location = write(changed(["annotations"], None))
    listed = tmp_path / "annotations" / "instances_val2017.json"
    for path in (listed, listed.with_name("image_info_val2017.json")):
        listed.rename(path)
        source = coco.open_unlabelled(location, "val2017")
        assert source.classes == ("kite", "boat")
        assert [source.count(i) for i in range(len(source))] == [0, 0, 0]
        assert tmp_path / "val2017" / "b.png" in source.files()
        with pytest.raises(UserError, match=f"{path.name} has no list 'annotations'; test splits have"):
            coco.open_split(location, "val2017")
        listed = path


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")], ids="-".join)
def test_a_name_that_a_copy_has_decomposed_is_the_same_name(tmp_path, forms):
    here, asked = (unicodedata.normalize(form, "Zürich.jpg") for form in forms)
    (tmp_path / here).write_text("")
    assert as_spelled(tmp_path / asked) == tmp_path / here
    assert as_spelled(tmp_path / here) == tmp_path / here
    assert as_spelled(tmp_path / "Bärn.jpg") == tmp_path / "Bärn.jpg"  # which is not there


def test_images_that_may_be_missing(write):
    location = write(changed(["images", 1, "file_name"], "c.png"))
    with pytest.raises(UserError, match=r"add it, or let training do without .*data\.skip_corrupt=N"):
        coco.open_split(location, "val2017")
    source = coco.open_split(dataclasses.replace(location, skip_corrupt=1), "val2017")
    with pytest.raises(UnusableImage, match=r"c\.png cannot be read"):
        source[1]


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        (["segmentation", "counts"], [10], "its runs have 10 pixels, not 1200"),
        (["segmentation", "counts"], [-5, 1205], "-5"),
        (["segmentation", "counts"], ["a"], "'str'"),
        (["segmentation", "counts"], "PPPP" * 1000, "Invalid RLE"),  # far more pixels than the image has
        (["segmentation", "counts"], "\u1234", "Invalid RLE"),
    ],
)
def test_an_object_that_cannot_be_read_is_one_message(write, path, value, reason):
    source = coco.open_split(write(changed(["annotations", 1, *path], value)), "val2017")
    with pytest.raises(
        UserError, match=f"val2017.json: annotation 2 cannot be read .*{reason}.*; correct it"
    ):
        source.objects(0)


def test_other_files_are_no_annotations(write, tmp_path):
    location = write([1, 2])
    with pytest.raises(UserError, match="has no list 'categories'"):
        coco.open_split(location, "val2017")
    for text in ("not JSON", "[" * 100_000):
        (tmp_path / "annotations" / "instances_val2017.json").write_text(text)
        with pytest.raises(UserError, match="cannot be read as JSON"):
            coco.open_split(location, "val2017")
    with pytest.raises(MissingSplit, match=r"instances_train2017\.json does not exist; data.dir must hold"):
        coco.open_split(location, "train2017")
