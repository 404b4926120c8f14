"""Data with the classes of a network: the same names in another order are mapped, others are refused."""

import copy
import dataclasses
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccnet_jax import prepare
from ccnet_jax.common.errors import UserError
from ccnet_jax.common.labels import UNKNOWN, VOID, Classes, numbered_names, numbered_palette
from ccnet_jax.data import pipeline
from ccnet_jax.data.config import DataConfig
from ccnet_jax.data.datasets import DATASETS
from ccnet_jax.data.fitting import as_opened, classes_of_source, fit_classes
from ccnet_jax.data.sources import LazySource, Location, Source, files_of
from tests.miniatures import WRITERS, write_camvid, write_coco

pytestmark = pytest.mark.slow


def turned(classes):
    """The classes in another order."""
    return classes.in_order([*classes.names[3:], *classes.names[:3]])


def same_truth(first, second):
    """Whether two labels name the same classes; each is (label, names)."""
    names = [np.array([*names, *[""] * (256 - len(names))])[label] for label, names in (first, second)]
    return (names[0] == names[1]).all()


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """{kind: the images of a split} of every kind of source of labels."""
    root = tmp_path_factory.mktemp("fitting")
    camvid = write_camvid(root / "camvid", images=2)
    for name, tiling in (("tfds", None), ("tiles", prepare.Tiling())):
        prepare.prepare("camvid", Location(dir=str(camvid)), str(root / name), tiling=tiling)

    def opened(name, folder, split="val", **changes):
        return pipeline.open_source(DataConfig(name=name, dir=str(folder), **changes), split)

    return {
        "joined": opened("camvid", camvid, "train+val"),
        "tfds": opened("camvid", root / "tfds", source="tfds"),
        "tiles": opened("camvid", root / "tiles", source="tfds"),
        "folder": opened("folder", camvid),
        "streets": opened("streets", root),
        **{name: opened(name, write(root / f"own-{name}")) for name, write in WRITERS.items()},
    }


KINDS = ["joined", "tfds", "tiles", "folder", "streets", *WRITERS]


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_names_in_another_order_are_mapped(sources, kind):
    source = sources[kind]
    classes = classes_of_source(source)
    assert fit_classes(source, classes, "a run", "data") is source
    other = turned(classes)
    found = fit_classes(source, other, "a run", "data")
    assert isinstance(found, Source)
    assert found.classes == other.names != source.classes
    assert as_opened(found) is source
    assert files_of(found) == files_of(source)
    assert len(found) == len(source)
    before, after = source[1], pickle.loads(pickle.dumps(found))[1]  # workers get it pickled
    np.testing.assert_array_equal(before["image"], after["image"])
    assert (before["label"] != VOID).any()
    assert same_truth((before["label"], source.classes), (after["label"], found.classes))
    assert (found.numbers[after["label"][after["label"] != VOID]] < 255).all()
    own, of_run = (dict(zip(x.classes, x.numbers, strict=True)) for x in (source, found))
    assert own == of_run  # the label files' numbers stay those of the data set
    assert [tuple(x) for x in found.palette] == [
        tuple(classes.palette[source.classes.index(n)]) for n in found.classes
    ]
    assert isinstance(found, LazySource) == isinstance(source, LazySource) == (kind == "tiles")
    data = DataConfig(name="streets", crop=(64, 64), scale=(0.5, 2.0), flip=True)
    batches = [next(pipeline.train_batches(x, data, 2, seed=1)) for x in (source, found)]
    labels = [(batch["label"], x.classes) for batch, x in zip(batches, (source, found), strict=True)]
    assert same_truth(*labels)


@pytest.mark.parametrize(
    "change", [lambda names: names[1:], lambda names: (*names, "lake"), lambda names: ("lake", *names[1:])]
)
@pytest.mark.parametrize("kind", ["joined", "tfds", "streets", "instances"])
def test_other_names_are_refused_with_both_lists(sources, kind, change, tmp_path):
    source = sources["streets"] if kind == "instances" else sources[kind]
    if kind == "instances":
        source = DATASETS["coco"].open(Location(dir=str(write_coco(tmp_path, number=1))), "val2017")
    names = change(source.classes)
    with pytest.raises(UserError) as error:
        fit_classes(source, Classes(names, numbered_palette(len(names))), "runs/a", "val of mine")
    said = str(error.value)
    assert f"runs/a has the {len(names)} classes {', '.join(names)}, and val of mine has the" in said
    assert f"{len(source.classes)} classes {', '.join(source.classes)}" in said
    only_run, only_data = (
        [x for x in a if x not in b] for a, b in ((names, source.classes), (source.classes, names))
    )
    assert ("only the run has " + ", ".join(only_run) in said) == bool(only_run)
    assert ("only the data has " + ", ".join(only_data) in said) == bool(only_data)


def test_classes_without_names_fit_where_the_data_have_no_names_either(sources):
    source = sources["folder"]
    count = len(source.classes)
    assert source.classes == numbered_names(count)
    more = Classes(numbered_names(count + 2), numbered_palette(count + 2))
    found = fit_classes(source, more, "a run", "data")
    assert found.classes == more.names
    np.testing.assert_array_equal(found[0]["label"], source[0]["label"])
    assert found.numbers.tolist() == list(range(count + 2))
    fewer = Classes(numbered_names(count - 1), numbered_palette(count - 1))
    with pytest.raises(
        UserError, match=f"a run has the {count - 1} classes class 0, .*only the data has class {count - 1}"
    ):
        fit_classes(source, fewer, "a run", "data")
    named = Classes(tuple("abcdefghijklmnop"[:count]), numbered_palette(count))
    with pytest.raises(
        UserError, match="nothing names the classes of the data, so no number is known .*class file"
    ):
        fit_classes(source, named, "a run", "data")
    with pytest.raises(UserError, match="nothing names the classes of the run, so no number is known"):
        fit_classes(sources["camvid"], Classes(numbered_names(11), numbered_palette(11)), "a run", "data")


def test_objects_have_the_networks_classes(tmp_path):
    source = DATASETS["coco"].open(Location(dir=str(write_coco(tmp_path, number=2))), "val2017")
    names = source.classes[2:] + source.classes[:2]
    found = fit_classes(source, Classes(names, numbered_palette(len(names))), "a run", "data")
    for i in range(2):
        before, after = source.objects(i), found.objects(i)
        assert [source.classes[c] for c in before.classes] == [names[c] for c in after.classes]
        assert after.classes.dtype == np.int32
        np.testing.assert_array_equal(before.boxes, after.boxes)
        assert [source.class_ids[c] for c in before.classes] == [found.class_ids[c] for c in after.classes]
        for ask in ("size", "count", "name", "image_id"):
            assert getattr(source, ask)(i) == getattr(found, ask)(i)
        np.testing.assert_array_equal(source[i]["image"], found[i]["image"])
    assert files_of(found) == files_of(source)


@given(st.data())
def test_an_order_of_classes_reads_the_same_label_files(data):
    count = data.draw(st.integers(2, 40))
    numbers = data.draw(st.permutations(range(256)))[:count]
    colours = {tuple(colour): i for i, colour in enumerate(numbered_palette(count).tolist())}
    classes = Classes.with_numbers(numbered_names(count), numbered_palette(count), list(numbers))
    classes = Classes(classes.names, classes.palette, classes.label_ids, colours | {(9, 9, 9): VOID})
    other = classes.in_order(data.draw(st.permutations(classes.names)))
    assert dict(zip(classes.names, numbers, strict=True)) == dict(
        zip(other.names, other.numbers, strict=True)
    )
    for number in range(256):
        before, after = classes.label_ids[number], other.label_ids[number]
        same = before == after if before >= UNKNOWN else classes.names[before] == other.names[after]
        assert same, number
    for colour, index in colours.items():
        assert other.names[other.label_colours[colour]] == classes.names[index]
    assert other.label_colours[9, 9, 9] == VOID
    back = copy.copy(other.in_order(classes.names))
    np.testing.assert_array_equal(back.label_ids, classes.label_ids)
    np.testing.assert_array_equal(back.palette, classes.palette)


@pytest.mark.parametrize("numbers", [[0], [0, 0], [0, 256], [0, -1], [0, "1"], [0, True], [0, 1, 2]])
def test_numbers_that_cannot_be_those_of_classes_are_refused(numbers):
    with pytest.raises(ValueError, match="number"):
        Classes.with_numbers(("a", "b"), numbered_palette(2), numbers)


def test_a_class_file_counts_and_a_config_that_says_otherwise_is_refused(tmp_path):
    camvid = write_camvid(tmp_path / "camvid", images=2)
    (camvid / "classes.txt").write_text("\n".join(DATASETS["camvid"].classes.names))
    data = DataConfig(name="folder", dir=str(camvid))
    names = pipeline.open_source(data, "val").classes
    assert pipeline.open_source(dataclasses.replace(data, classes=names), "val").classes == names
    with pytest.raises(
        UserError, match="config.data.classes says that .* 0 bicyclist, .*classes.txt that they are 0 sky"
    ):
        pipeline.open_source(dataclasses.replace(data, classes=names[::-1]), "val")
    out = tmp_path / "tfds"
    prepare.prepare("folder", Location(dir=str(camvid)), str(out))
    tfds = DataConfig(name="folder", dir=str(out), source="tfds")
    assert pipeline.open_source(dataclasses.replace(tfds, classes=names), "val").classes == names
    with pytest.raises(UserError, match="config.data.classes says that .*classes.json that they are 0 sky"):
        pipeline.open_source(dataclasses.replace(tfds, classes=names[::-1]), "val")
