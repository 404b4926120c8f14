import hashlib
import itertools
import json
import os
import pathlib
import resource
import shutil
import signal
import time

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds
from array_record.python import array_record_module
from tensorflow_datasets.core.utils import file_utils

from ccnet_jax import prepare
from ccnet_jax.common.errors import UserError
from ccnet_jax.common.labels import numbered_palette
from ccnet_jax.data import pipeline
from ccnet_jax.data.config import DataConfig
from ccnet_jax.data.sources import Location, OtherClasses
from ccnet_jax.engine.lock import Lock
from tests import helpers, miniatures
from tests.data.test_pipeline import assert_same

pytestmark = pytest.mark.slow

SHARD_BYTES = 30_000  # two or three images of the miniatures
SPLITS = {  # splits that are there, and one more as recipes write it
    "ade20k": ("train", "val"),
    "camvid": ("train", "val", "train+val"),
    "cityscapes": ("train", "val", "test", "train_extra"),
    "voc2012": ("train", "val", "trainval", "test", "aug", "trainaug", "train+aug"),
}


def settings(name, folder, source="tfds", **changes):
    return DataConfig(name=name, dir=str(folder) if folder else None, source=source, flip=True, **changes)


def at(folder):
    """Where a data set lies."""
    return Location(dir=str(folder) if folder else None)


def open_tfds(name, folder, split="train", **changes):
    return pipeline.open_source(settings(name, folder, **changes), split)


def message(error):
    """What a user is told."""
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """{data set: its miniature folder}."""
    root = tmp_path_factory.mktemp("folders")
    return {name: write(root / name) or root / name for name, write in miniatures.WRITERS.items()}


@pytest.fixture(scope="module")
def out(folders, tmp_path_factory):
    """A folder in which all of them are prepared."""
    out = tmp_path_factory.mktemp("tfds")
    for name, folder in folders.items():
        prepare.prepare(name, at(folder), str(out), shard_bytes=SHARD_BYTES)
    return out


@pytest.fixture(scope="module")
def tiled(folders, tmp_path_factory):
    """A folder in which all of them are prepared in tiles."""
    out = tmp_path_factory.mktemp("tiled")
    for name, folder in folders.items():
        prepare.prepare(name, at(folder), str(out), shard_bytes=SHARD_BYTES, tiling=prepare.Tiling())
    return out


@pytest.fixture
def mine(out, tmp_path):
    """A copy of the prepared CamVid, to be spoilt: the folder of its files."""
    shutil.copytree(out / "camvid", tmp_path / "camvid")
    return tmp_path / "camvid" / "1.0.0"


# ------------------------------------------------------------------- reading


@pytest.mark.parametrize("name", SPLITS)
@pytest.mark.parametrize("form", ["out", "tiled"])
def test_both_ways_give_the_same_images(request, folders, form, name):
    for split in SPLITS[name]:
        folder = pipeline.open_source(settings(name, folders[name], "folder"), split)
        source = open_tfds(name, request.getfixturevalue(form), split)
        assert len(source) == len(folder)
        assert source.classes == folder.classes
        np.testing.assert_array_equal(source.palette, folder.palette)
        for i in range(len(folder)):
            assert source.name(i) == folder.name(i)
            np.testing.assert_array_equal(source[i]["image"], folder[i]["image"])
            np.testing.assert_array_equal(source[i]["label"], folder[i]["label"])


@pytest.mark.parametrize("name", SPLITS)
def test_the_files_bytes_are_kept(folders, out, name):
    kept = set()
    for split in SPLITS[name]:
        source = open_tfds(name, out, split)
        kept |= {hashlib.sha256(data).digest() for i in range(len(source)) for data in source.read(i)}
    kinds = {"ade20k": ("images/*", "annotations/*"), "camvid": ("images/*", "labels/*")}
    kinds |= {"cityscapes": ("leftImg8bit/*/*", "gt*/*/*"), "voc2012": ("JPEGImages", "SegmentationClass*")}
    for kind in kinds[name]:
        files = [p for p in folders[name].glob(f"{kind}/*") if name != "cityscapes" or "gt" not in p.name]
        files += folders[name].glob(f"{kind}/*labelIds.png")
        assert files
        for file in files:
            assert hashlib.sha256(file.read_bytes()).digest() in kept, file


def test_plain_tfds_reads_it(out):
    source = tfds.data_source("camvid", data_dir=out, split="val")
    assert source[1]["image"].shape == (64, 96, 3)
    assert source[1]["label"].shape == (64, 96, 1)
    assert source[1]["name"] == b"1"
    builder = tfds.builder_from_directory(out / "cityscapes" / "1.0.0")
    names = builder.info.features["label"].names
    assert (len(names), names[0], names[7], names[33]) == (34, "void 0", "road", "bicycle")
    assert (builder.as_data_source("test")[0]["label"] == 255).all()
    assert len(tfds.data_source("cityscapes:1.0.0", data_dir=out, split="train+val[:1]")) == 4


@pytest.mark.parametrize(("form", "workers"), [("out", (0, 1, 4)), ("tiled", (0, 1))])
def test_batches_are_the_same_whatever_makes_them(request, folders, form, workers):
    out = request.getfixturevalue(form)

    def batches(source, data, **process):
        return list(itertools.islice(pipeline.train_batches(source, data, 4, seed=3, **process), 4))

    augmentation = {"scale": (0.5, 2.0), "crop": (48, 48), "cat_max_ratio": 0.5, "distort": True}
    data = settings("camvid", folders["camvid"], "folder", **augmentation)
    wanted = batches(pipeline.open_source(data, "train"), data)
    for count in workers:
        data = settings("camvid", out, workers=count, **augmentation)
        source = pipeline.open_source(data, "train")
        source[0]  # its files are open when it is sent to the workers
        assert_same(wanted, batches(source, data))
    data = settings("camvid", out, **augmentation)
    parts = [batches(source, data, process=p, processes=2) for p in range(2)]
    joined = [{key: np.concatenate([x[key], y[key]]) for key in x} for x, y in zip(*parts, strict=True)]
    assert_same(wanted, joined)


def test_a_corrupt_label_met_in_training_names_its_record(folders, tmp_path, monkeypatch):
    """As from a data set that others made: nobody checked its images."""
    monkeypatch.setattr(prepare, "decode_sample", lambda *_: {"label": np.zeros((64, 96))})
    shutil.copytree(folders["camvid"], tmp_path / "camvid")
    label = tmp_path / "camvid/labels/train/2.png"
    label.write_bytes(label.read_bytes()[:100])
    prepare.prepare("camvid", at(tmp_path / "camvid"), str(tmp_path / "out"))
    monkeypatch.undo()
    with pytest.raises(UserError, match="label of record 2 of camvid train is corrupt") as error:
        open_tfds("camvid", tmp_path / "out")[2]
    message(error)


@pytest.mark.parametrize(
    ("spoil", "changes", "words"),
    [
        (None, {"name": "kitti"}, "holds no prepared data set kitti; prepare it there"),
        (None, {"name": "../camvid"}, "'../camvid' is no name of a TFDS data set"),
        (None, {"dir": "/nowhere"}, "/nowhere holds no prepared data set camvid"),
        (None, {"split": "test"}, "has the splits train, val, not 'test'"),
        (None, {"split": "train[:x%]"}, "has the splits train, val, not 'train.:x%.'"),
        (None, {"split": "train[:0]"}, "has no images"),
        (None, {"features": ("image", "truth")}, "no image feature 'truth'.*two of image .Image, 3 channels"),
        (None, {"classes": ("a", "b")}, "camvid has classes of its own; remove --config.data.classes"),
        (lambda d: d.rename(f"{d}.incomplete"), {}, "is unfinished; run the command that prepares it again"),
        (lambda d: (d / "features.json").unlink(), {}, "holds no prepared data set camvid"),
        (lambda d: (d / "dataset_info.json").unlink(), {}, "cannot be opened: .*dataset_info.json"),
        (lambda d: shard(d).unlink(), {}, "00000-of-00002 is missing; restore it"),
        (lambda d: shard(d).write_bytes(b""), {}, "00000-of-00002 cannot be read .*restore that file"),
        (lambda d: os.truncate(shard(d), 70_000), {}, "00000-of-00002 cannot be read"),
        (lambda d: flip(shard(d)), {}, "00000-of-00002 cannot be read .*mismatch"),
        (
            lambda d: (d / "features.json").write_text("[" * 100_000),
            {},
            "features.json cannot be read as JSON",
        ),
        (lambda d: (d / "features.json").write_text("3"), {}, "camvid in .* cannot be opened: "),
        (lambda d: (d / "dataset_info.json").write_text("[1]"), {}, "camvid in .* cannot be opened: "),
        (
            lambda d: edit(d / "dataset_info.json", "{DATASET}-{SPLIT}", "../1.0.0/{DATASET}-{SPLIT}"),
            {},
            "has its records in .*/../1.0.0/camvid-train.* outside that folder",
        ),
    ],
)
def test_what_cannot_be_read_is_one_message(mine, spoil, changes, words):
    if spoil:
        spoil(mine)
    values = {"name": "camvid", "dir": mine.parents[1], "split": "train"} | changes
    with pytest.raises(UserError, match=words) as error:
        open_tfds(values.pop("name"), values.pop("dir"), values.pop("split"), **values)[0]
    message(error)


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_a_data_set_imports_no_code(mine, tmp_path, monkeypatch):
    """TFDS imports the module of each class that a features.json names."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "of_another.py").write_text(f"open({str(tmp_path / 'marker')!r}, 'w')")
    edit(mine / "features.json", "tensorflow_datasets.core.features.image_feature.Image", "of_another.Image")
    with pytest.raises(UserError, match="features.json names the class of_another.Image, whose code would"):
        open_tfds("camvid", mine.parents[1])
    assert not (tmp_path / "marker").exists()


def shard(folder):
    return folder / "camvid-train.array_record-00000-of-00002"


def flip(path):
    """Change a byte of the first record, in the file's second block of 64 KiB."""
    data = bytearray(path.read_bytes())
    data[2000] ^= 255
    path.write_bytes(data)


# --------------------------------------------------------------------- tiles


def large_city(root):
    """Cityscapes of two images of six tiles each, those on the right and below smaller than the others."""
    return miniatures.write_cityscapes(root, images=2, size=(200, 300))


def test_tiles_of_large_images_make_the_same_batches_and_evaluation(tmp_path):
    folder = large_city(tmp_path / "city")
    prepare.prepare(
        "cityscapes", at(folder), str(tmp_path / "out"), ["train", "val"], tiling=prepare.Tiling()
    )
    augmentation = {"scale": (0.5, 2.0), "crop": (96, 130), "cat_max_ratio": 0.75, "distort": True}
    batches = []
    for where, source in ((folder, "folder"), (tmp_path / "out", "tfds")):
        data = settings("cityscapes", where, source, **augmentation)
        training = pipeline.train_batches(pipeline.open_source(data, "train"), data, 2, seed=5)
        evaluation = pipeline.evaluation_batches(pipeline.open_source(data, "val"), 2, 2)
        batches.append([*itertools.islice(training, 6), *evaluation])
    for from_folder, from_tiles in zip(*batches, strict=True):
        np.testing.assert_array_equal(from_tiles["image"], from_folder["image"])
        np.testing.assert_array_equal(from_tiles["label"], from_folder["label"])


def test_jpeg_tiles_are_smaller_and_keep_labels(tmp_path):
    folder = large_city(tmp_path / "city")
    sizes = {}
    for jpeg in (None, 90):
        out = tmp_path / f"jpeg-{jpeg}"
        prepare.prepare("cityscapes", at(folder), str(out), ["train"], tiling=prepare.Tiling(jpeg))
        sizes[jpeg] = sum(path.stat().st_size for path in out.rglob("*array_record*"))
    assert sizes[90] < sizes[None]
    whole = pipeline.open_source(settings("cityscapes", folder, "folder"), "train")[1]
    small = open_tfds("cityscapes", tmp_path / "jpeg-90")[1]
    np.testing.assert_array_equal(small["label"], whole["label"])
    difference = np.abs(small["image"].astype(int) - whole["image"]).mean()
    assert 0 < difference < 10


def test_your_own_images_in_tiles(tmp_path):
    """Labels with numbers of their own, and classes that only the prepared data set knows."""
    for split in ("train", "val"):
        for i in range(2):
            miniatures.write(tmp_path / f"mine/images/{split}/{i}.png", PHOTO + np.uint8(i))
            miniatures.write(tmp_path / f"mine/labels/{split}/{i}.png", MASK)
    (tmp_path / "mine/classes.txt").write_text("soil\nvoid\nweed\n")
    folder = pipeline.open_source(settings("folder", tmp_path / "mine", "folder"), "train")
    prepare.prepare("folder", at(tmp_path / "mine"), str(tmp_path / "out"), tiling=prepare.Tiling())
    source = open_tfds("folder", tmp_path / "out")
    assert source.classes == folder.classes == ("soil", "weed")
    assert source.name(1) == folder.name(1)
    np.testing.assert_array_equal(source[1]["label"], folder[1]["label"])
    with pytest.raises(
        OtherClasses, match="labels are 0 soil, and .*classes.json that they are 0 soil, 1 we"
    ):
        open_tfds("folder", tmp_path / "out", classes=("soil",))
    (source.files()[0].parent / "classes.json").unlink()
    with pytest.raises(
        UserError, match="tile 0 of label of record 0 .* holds the label 1 .*none of its data"
    ):
        open_tfds("folder", tmp_path / "out", classes=("soil",))[0]
    with pytest.raises(UserError, match="holds tiles, which have one meaning; remove --config.data.features"):
        open_tfds("folder", tmp_path / "out", features=("image", "label"))


def test_interrupted_tiles_go_on_and_other_tiles_are_not_mixed_in(folders, tiled, out, tmp_path, capsys):
    def again(tiling):
        prepare.prepare(
            "camvid", at(folders["camvid"]), str(tmp_path), shard_bytes=SHARD_BYTES, tiling=tiling
        )

    unfinished = tmp_path / "camvid" / "1.0.0.incomplete"
    shutil.copytree(tiled / "camvid" / "1.0.0", unfinished)
    shard(unfinished).unlink()
    for tiling in (None, prepare.Tiling(jpeg=95)):
        with pytest.raises(UserError, match="1.0.0.incomplete was prepared with --tiles; repeat that"):
            again(tiling)
    again(prepare.Tiling())
    assert "holds 3 of 4 files: going on" in capsys.readouterr().out
    found, wanted = (content(root / "camvid" / "1.0.0") for root in (tmp_path, tiled))
    del found["checksums.json"], wanted["checksums.json"]  # in the order in which files were written
    assert found == wanted
    shutil.rmtree(tmp_path / "camvid")
    shutil.copytree(out / "camvid", tmp_path / "camvid")
    with pytest.raises(UserError, match="1.0.0 was prepared without --tiles; repeat that"):
        again(prepare.Tiling())


def test_tiles_of_another_version_are_one_message(folders, tiled, tmp_path, monkeypatch):
    shutil.copytree(tiled / "camvid", tmp_path / "camvid")
    folder = tmp_path / "camvid" / "1.0.0"
    features = json.loads((folder / "features.json").read_text())
    del features["featuresDict"]["features"]["grid"]
    (folder / "features.json").write_text(json.dumps(features))
    with pytest.raises(UserError, match="1.0.0 holds tiles in the form of another version of this program"):
        open_tfds("camvid", tmp_path)
    monkeypatch.setattr(prepare, "SIDE", 64)
    with pytest.raises(
        UserError, match="prepared by another version of this program, with tiles of 128 pixels"
    ):
        prepare.prepare(
            "camvid", at(folders["camvid"]), str(tmp_path), shard_bytes=SHARD_BYTES, tiling=prepare.Tiling()
        )


@pytest.mark.parametrize("spoil", [lambda path: flip(path), lambda path: os.truncate(path, 70_000)])
def test_a_corrupt_file_of_tiles_is_named(tiled, tmp_path, spoil):
    shutil.copytree(tiled / "camvid", tmp_path / "camvid")
    spoil(shard(tmp_path / "camvid" / "1.0.0"))
    with pytest.raises(
        UserError, match="camvid-train.*00000-of-00002 cannot be read .*restore that file"
    ) as e:
        open_tfds("camvid", tmp_path)[0]
    message(e)


def test_tiles_of_jpegs_need_more_room_than_the_jpegs(folders, tmp_path, monkeypatch):
    size = sum(path.stat().st_size for path in folders["ade20k"].rglob("*") if path.is_file())
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(0, 0, int(1.1 * size)))
    with pytest.raises(UserError, match="GB more but its disk has"):
        prepare.prepare("ade20k", at(folders["ade20k"]), str(tmp_path / "tiles"), tiling=prepare.Tiling())
    prepare.prepare("ade20k", at(folders["ade20k"]), str(tmp_path / "files"))


# ------------------------------------------------- data sets that others made


def write_foreign(root, features, records, file_format="array_record"):
    """A TFDS data set "fields" with a split "train", as somebody else's program would write it."""
    folder = root / "fields" / "2.1.0"
    folder.mkdir(parents=True)
    template = tfds.core.ShardedFileTemplate(
        data_dir=folder, dataset_name="fields", split="train", filetype_suffix=file_format
    )
    features = tfds.features.FeaturesDict(features)
    if file_format == "array_record":
        writer = array_record_module.ArrayRecordWriter(
            str(template.sharded_filepath(shard_index=0, num_shards=1)), "group_size:1"
        )
        for record in records:
            writer.write(features.serialize_example(record))
        writer.close()
    identity = tfds.core.DatasetIdentity(
        name="fields", version=tfds.core.Version("2.1.0"), data_dir=str(folder), module_name="somewhere"
    )
    info = tfds.core.DatasetInfo(builder=identity, features=features, description="")
    info.set_file_format(file_format)
    split = tfds.core.SplitInfo(
        name="train", shard_lengths=[len(records)], num_bytes=1, filename_template=template
    )
    info.set_splits(tfds.core.SplitDict([split]))
    info.write_to_directory(folder)


PHOTO = np.arange(8 * 6 * 3, dtype=np.uint8).reshape(8, 6, 3)
MASK = np.array([[0, 1, 2, 255, 1, 0]] * 8, np.uint8)


def foreign_records():
    photo, mask = (cv2.imencode(".png", x)[1].tobytes() for x in (PHOTO[..., ::-1], MASK))
    return [
        {"photo": photo, "mask": mask, "other": photo, "id": 7},
        {"photo": photo, "mask": b"", "other": photo, "id": 8},
    ]


def foreign_features(mask, other=(None, None, 4)):
    return {
        "photo": tfds.features.Image(),
        "mask": mask,
        "other": tfds.features.Image(shape=other),
        "id": tfds.features.Scalar(np.int64),
    }


def test_a_data_set_with_plain_features(tmp_path):
    write_foreign(tmp_path, foreign_features(tfds.features.Image(shape=(None, None, 1))), foreign_records())
    with pytest.raises(UserError, match="fields does not name its classes; set --config.data.classes"):
        open_tfds("fields", tmp_path)
    source = open_tfds("fields:2.1.0", tmp_path, classes=("soil", "crop", "weed"))
    np.testing.assert_array_equal(source[0]["image"], PHOTO)
    np.testing.assert_array_equal(source[0]["label"], MASK)
    assert (source[1]["label"] == 255).all()
    assert source.read(1)[1] is None
    assert source.classes == ("soil", "crop", "weed")
    np.testing.assert_array_equal(source.palette, numbered_palette(3))
    assert source.name(1) == "train-00001"
    with pytest.raises(UserError, match="mask of record 0 of fields train holds the label 2"):
        open_tfds("fields", tmp_path, classes=("soil", "crop"))[0]


def test_a_data_set_that_names_its_classes(tmp_path, monkeypatch):
    mask = tfds.features.LabeledImage(labels=["soil", "crop", "weed"])
    write_foreign(tmp_path, foreign_features(mask), foreign_records())
    assert open_tfds("fields", tmp_path).classes == ("soil", "crop", "weed")
    assert open_tfds("fields", tmp_path, classes=("soil", "crop", "weed")).classes == ("soil", "crop", "weed")
    for given in (("a", "b", "c"), ("crop", "soil", "weed"), ("soil", "crop")):
        with pytest.raises(OtherClasses, match=f"{given[-1]}, and fields in .* 0 soil, 1 crop, 2 weed; omit"):
            open_tfds("fields", tmp_path, classes=given)
    monkeypatch.setattr(file_utils.constants, "DATA_DIR", str(tmp_path))  # from $TFDS_DATA_DIR at the import
    assert len(open_tfds("fields", None)) == 2


def test_a_data_set_whose_features_are_not_clear(tmp_path):
    mask = tfds.features.LabeledImage(labels=3)
    write_foreign(tmp_path, foreign_features(mask, other=(None, None, 3)), foreign_records())
    classes = ("soil", "crop", "weed")
    with pytest.raises(
        UserError, match="which features are image and label; set --config.data.features="
    ) as e:
        open_tfds("fields", tmp_path, classes=classes)
    assert "two of id (Scalar), mask (LabeledImage, 1 channels), other (Image, 3 channels)" in message(e)
    source = open_tfds("fields", tmp_path, features=("photo", "mask"), classes=classes)
    np.testing.assert_array_equal(source[0]["label"], MASK)
    with pytest.raises(UserError, match="does not name its classes"):  # TFDS's "0", "1", "2" are no names
        open_tfds("fields", tmp_path, features=("photo", "mask"))


def test_a_data_set_of_tfrecords(tmp_path):
    features = foreign_features(tfds.features.LabeledImage(labels=["a", "b", "c"]))
    write_foreign(tmp_path, features, foreign_records(), "tfrecord")
    with pytest.raises(
        UserError, match="stored as tfrecord.*prepare it again with file_format='array_record'"
    ):
        open_tfds("fields", tmp_path)


# ----------------------------------------------------------------- preparing


def content(folder):
    return {path.name: path.read_bytes() for path in pathlib.Path(folder).iterdir()}


def test_streets_needs_no_folder(tmp_path):
    prepare.prepare("streets", at(None), str(tmp_path), ["val"])
    source, drawn = (
        open_tfds("streets", tmp_path, "val"),
        pipeline.open_source(settings("streets", "", "folder"), "val"),
    )
    np.testing.assert_array_equal(source[99]["image"], drawn[99]["image"])
    np.testing.assert_array_equal(source[99]["label"], drawn[99]["label"])
    assert source.name(99) == drawn.name(99)


def test_splits_are_those_that_are_there_or_asked_for(folders, out, tmp_path, capsys):
    prepare.prepare("camvid", at(folders["camvid"]), str(tmp_path), ["val"])
    assert not capsys.readouterr().out.startswith("without")
    assert list(tfds.builder("camvid", data_dir=tmp_path).info.splits) == ["val"]
    prepare.prepare("camvid", at(folders["camvid"]), str(out), shard_bytes=SHARD_BYTES)
    said = capsys.readouterr().out
    assert "without split test: " in said
    assert "images/test is not a folder" in said
    assert "1.0.0 is complete: train 4, val 4 images in 4 files" in said


KILLS = """
import os, pathlib, random, signal, sys, time
from ccnet_jax import prepare
from ccnet_jax.data import tfds_source
from ccnet_jax.data.config import DataConfig
from ccnet_jax.data.sources import Location
from ccnet_jax.common.errors import UserError

source, whole, killed = sys.argv[1:]
data = DataConfig(name="camvid", dir=killed, source="tfds")
rng = random.Random(0)

def run(out, fatal=0):
    "Prepare in a child, which dies at its fatal-th step that lasts, before or after it."
    child = os.fork()
    if child:
        return child
    steps = 0
    def deadly(step):
        def wrapped(*arguments):
            nonlocal steps
            steps += 1
            if steps == abs(fatal) and fatal < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            result = step(*arguments)
            if steps == fatal:
                os.kill(os.getpid(), signal.SIGKILL)
            return result
        return wrapped
    os.fsync = deadly(os.fsync)
    pathlib.Path.rename, pathlib.Path.replace = deadly(pathlib.Path.rename), deadly(pathlib.Path.replace)
    prepare.prepare("camvid", Location(dir=source), out, shard_bytes=20_000)
    os._exit(0)

started = time.perf_counter()
assert os.waitpid(run(whole), 0)[1] == 0
seconds = time.perf_counter() - started
folder = pathlib.Path(killed, "camvid", "1.0.0")
deaths = 0
for i in range(20):
    if i % 2:
        child = run(killed, fatal=rng.choice([-1, 1]) * rng.randint(1, 5))
    else:
        child = run(killed)
        time.sleep(rng.uniform(0, seconds / 6))
        os.kill(child, signal.SIGKILL)
    if os.waitpid(child, 0)[1] == 0:
        break
    deaths += 1
    if folder.exists():
        continue
    try:
        tfds_source.open_split(data, "train")
    except UserError as error:
        assert "unfinished" in str(error) or "holds no prepared" in str(error), error
    else:
        raise SystemExit("a half data set was opened")
assert os.waitpid(run(killed), 0)[1] == 0
print(deaths, "deaths")
"""


def test_killed_at_any_moment_it_goes_on(tmp_path):
    source = miniatures.write_camvid(tmp_path / "camvid", images=16)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    said = helpers.fresh_python("-c", KILLS, str(source), str(whole), str(killed))
    assert int(said.split()[-2]) >= 4
    assert content(killed / "camvid" / "1.0.0") == content(whole / "camvid" / "1.0.0")
    assert not (killed / "camvid" / "1.0.0.incomplete").exists()


def test_half_written_and_corrupt_shards_are_written_again(folders, out, tmp_path, capsys):
    """What a crash of the whole machine, or a hand, may leave."""
    unfinished = tmp_path / "camvid" / "1.0.0.incomplete"
    shutil.copytree(out / "camvid" / "1.0.0", unfinished)
    names = sorted(path.name for path in unfinished.glob("*array_record*"))
    os.truncate(unfinished / names[0], 5)
    flip(unfinished / names[1])
    (unfinished / names[2]).rename(unfinished / f".{names[2]}.7.tmp")
    prepare.prepare("camvid", at(folders["camvid"]), str(tmp_path), shard_bytes=SHARD_BYTES)
    assert "holds 1 of 4 files: going on" in capsys.readouterr().out
    wanted = content(out / "camvid" / "1.0.0")
    found = content(tmp_path / "camvid" / "1.0.0")
    assert {name: found[name] for name in names} == {name: wanted[name] for name in names}
    assert found.keys() == wanted.keys()


def test_verify_finds_a_corrupt_shard_and_preparing_again_replaces_it(folders, mine, capsys):
    prepare.verify("camvid", str(mine.parents[1]))
    assert "is whole: 4 files have their checksums" in capsys.readouterr().out
    before = shard(mine).read_bytes()
    flip(shard(mine))
    with pytest.raises(UserError, match="1 of 4 files .*camvid-train.array_record-00000-of-00002; delete"):
        prepare.verify("camvid", str(mine.parents[1]))
    shard(mine).unlink()
    prepare.prepare("camvid", at(folders["camvid"]), str(mine.parents[1]), shard_bytes=SHARD_BYTES)
    assert shard(mine).read_bytes() == before
    prepare.verify("camvid", str(mine.parents[1]))


@pytest.mark.parametrize("suffix", ["", ".incomplete"])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"splits": ["train"]}, "was prepared with --split=train,val; repeat that"),
        ({"shard_bytes": 2**20}, "was prepared with --shard-megabytes=0.02"),
        ("longer", "was prepared from files of other names or sizes"),
        ("renamed", "was prepared from files of other names or sizes"),
    ],
)
def test_shards_of_something_else_are_not_mixed_in(folders, mine, tmp_path, change, words, suffix):
    mine.rename(f"{mine}{suffix}")
    before = content(f"{mine}{suffix}")
    source = shutil.copytree(folders["camvid"], tmp_path / "source")
    image = source / "images" / "val" / "3.png"
    if change == "longer":
        image.write_bytes(image.read_bytes() + b" ")
    if change == "renamed":
        image.rename(image.with_stem("4"))
        (source / "labels/val/3.png").rename(source / "labels/val/4.png")
    arguments = {"shard_bytes": SHARD_BYTES} | (change if isinstance(change, dict) else {})
    with pytest.raises(UserError, match=words) as error:
        prepare.prepare("camvid", at(source), str(mine.parents[1]), **arguments)
    message(error)
    assert content(f"{mine}{suffix}") == before


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda d: (d / "images/train/1.png").write_bytes(b"x"), "images/train/1.png is corrupt"),
        (lambda d: (d / "labels/val/1.png").write_bytes(b""), "labels/val/1.png is empty"),
        (lambda d: miniatures.write(d / "labels/val/3.png", MASK), "3.png is 96x64 .*its label .*is 6x8"),
        (lambda d: (d / "labels/val/1.png").unlink(), "images/val/1.png has no label"),
    ],
)
def test_a_bad_image_is_found_and_named(folders, tmp_path, spoil, words):
    source = shutil.copytree(folders["camvid"], tmp_path / "source")
    spoil(source)
    with pytest.raises(UserError, match=words) as error:
        prepare.prepare("camvid", at(source), str(tmp_path / "out"), ["train", "val"])
    message(error)
    with pytest.raises(UserError, match="unfinished|holds no prepared"):
        open_tfds("camvid", tmp_path / "out")
    shutil.copytree(folders["camvid"], source, dirs_exist_ok=True)  # put right, though of another size
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    prepare.prepare("camvid", at(source), str(tmp_path / "out"))


def test_what_cannot_be_written_is_one_message(folders, tmp_path, monkeypatch):
    def told(out=tmp_path / "out", source=folders["camvid"], splits=None):
        with pytest.raises(UserError) as error:
            prepare.prepare("camvid", at(source), str(out), splits)
        return message(error)

    assert "test is not a folder" in told(splits=["train", "test"])
    assert "has the splits train, val, test, not 'dusk'" in told(splits=["dusk"])
    assert told(source=None).startswith("pass --source=FOLDER, where FOLDER holds images/")
    assert "--source=/nowhere is not a folder" in told(source="/nowhere")
    (tmp_path / "file").touch()
    assert "1.0.0.lock cannot be written (Not a directory); choose another --out" in told(tmp_path / "file")
    (tmp_path / "other/camvid/1.0.0").mkdir(parents=True)
    assert "has no checksums.json of this program; choose another --out" in told(tmp_path / "other")

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 0))
        assert "GB more but its disk has 0.0 GB free; make room" in told()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        assert "00000-of-00001 cannot be written (write() failed: File too large)" in told()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    with Lock(tmp_path / "out/camvid/1.0.0.lock"):
        assert f"process {os.getpid()} on" in told()
    prepare.prepare("camvid", at(folders["camvid"]), str(tmp_path / "out"))  # and now it goes on
    with pytest.raises(UserError, match="is not there; run the command without --verify"):
        prepare.verify("voc2012", str(tmp_path / "out"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_program_stopped_by_a_signal(number, tmp_path):
    arguments = ["--dataset=streets", "--out=out", "--split=train", "--shard-megabytes=1"]
    process = helpers.start("ccnet_jax.prepare", *arguments, cwd=tmp_path)
    checksums = tmp_path / "out/streets/1.0.0.incomplete/checksums.json"
    deadline = time.monotonic() + 60
    while not (checksums.exists() and json.loads(checksums.read_text())["shards"]):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(number)
    said, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number, err
    assert "interrupted: the same command goes on where this one stopped" in said
    assert "Traceback" not in err
    assert "image/s" in err  # the bar


def test_the_program_tells_what_it_takes(tmp_path):
    code, said, err = helpers.run("ccnet_jax.prepare", "--help", cwd=tmp_path)
    assert code == 0, err
    assert "--verify" in said
    assert "{ade20k,camvid,cityscapes,folder,streets,voc2012}" in said
    code, said, err = helpers.run("ccnet_jax.prepare", "--dataset=camvid", cwd=tmp_path)
    assert code == 2
    assert err.startswith("error: the following arguments are required: --out")


def test_jpegs_quality_needs_tiles_and_is_at_most_100(monkeypatch, capsys):
    common = ["prepare", "--dataset=streets", "--out=out"]
    monkeypatch.setattr("sys.argv", [*common, "--jpeg=90"])
    with pytest.raises(UserError, match="--jpeg is the quality of tiles: pass --tiles too"):
        prepare.main()
    monkeypatch.setattr("sys.argv", [*common, "--tiles", "--jpeg=101"])
    with pytest.raises(SystemExit, match="2"):
        prepare.main()
    assert "must be a whole number from 1 to 100" in capsys.readouterr().err
