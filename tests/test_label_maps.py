"""Label maps have one numbering, that of the data set's label files, and can be read as labels of it."""

import io
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from ccnet_jax import figures, prepare
from ccnet_jax.common.errors import UserError
from ccnet_jax.common.labels import UNKNOWN, VOID
from ccnet_jax.config import records
from ccnet_jax.data import pipeline
from ccnet_jax.data.images import decode_indices
from ccnet_jax.data.sources import Location
from ccnet_jax.engine.folder import RunFolder
from ccnet_jax.evaluation.evaluate import evaluate
from ccnet_jax.tasks import TASKS
from ccnet_jax.tasks.semantic_model import Model, Prediction, write_results
from ccnet_jax.tools.page.answers import Explorer, Question
from ccnet_jax.tools.page.networks import Network, Way
from ccnet_jax.tools.page.own_images import OwnImages
from ccnet_jax.tools.page.uploads import Limits
from tests import helpers
from tests.miniatures import WRITERS, scene, write


def folder(class_file, numbers, palette=None):
    """Writes a `folder` data set whose label files have these numbers, or their colours, for its classes."""

    def make(root):
        for split in ("train", "val"):
            for i in range(2):
                image, label = scene(i, 48, 64)
                label = np.array(numbers)[label % len(numbers)].astype(np.uint8)
                write(root / f"images/{split}/{i}.png", image)
                write(root / f"labels/{split}/{i}.png", label if palette is None else palette[label])
        if class_file:
            (root / "classes.txt").write_text(class_file)
        return root

    return make


TONES = np.array([(0, 0, 0), (200, 0, 0), (0, 200, 0), (0, 0, 200)], np.uint8)
DATA = {
    **{name: (name, make, None) for name, make in WRITERS.items()},
    "streets": ("streets", lambda root: root, None),
    "void first": ("folder", folder("ignore\nroad\nhouse\ntree\n", range(4)), [1, 2, 3]),
    "void in between": ("folder", folder("road\nhouse\nvoid\ntree\n", range(4)), [0, 1, 3]),
    "no void": ("folder", folder("road\nhouse\ntree\n", range(3)), [0, 1, 2]),
    "no names": ("folder", folder("", range(5)), [0, 1, 2, 3, 4]),
    "grey values": ("folder", folder("background 0 0 0\nobject 255 255 255\n", [0, 255]), [0, 255]),
    "grey values and void": ("folder", folder("void 9 9 9\nb 0 0 0\nc 77 77 77\n", [0, 9, 77]), [0, 77]),
    "colours": (
        "folder",
        folder("void 0 0 0\na 200 0 0\nb 0 200 0\nc 0 0 200\n", range(4), TONES),
        [1, 2, 3],
    ),
    "tfds": ("folder", folder("ignore\nroad\nhouse\ntree\n", range(4)), [0, 1, 2]),
}
PUBLISHED = {
    "cityscapes": {7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33},
    "ade20k": set(range(1, 151)),
    "voc2012": set(range(21)),
    "camvid": set(range(11)),
}


def written(folder):
    """{name: (file's bytes, pixels)} of the PNGs in a folder."""
    found = {}
    for path in folder.glob("*.png"):
        with Image.open(path) as image:
            found[path.stem] = path.read_bytes(), np.array(image)
    return found


@pytest.mark.parametrize("kind", DATA)
def test_what_is_written_is_read_as_labels_of_the_data_set(kind, tmp_path, monkeypatch):
    """Predictions of every class, by `predict`, by `eval --labels` and by the page."""
    name, make, numbers = DATA[kind]
    root, changes = make(tmp_path / "data"), {}
    if kind == "tfds":
        prepare.prepare(name, Location(dir=str(root)), str(tmp_path / "tfds"))
        root, changes = tmp_path / "tfds", {"data__source": "tfds"}
    config = helpers.load_config("demo", data__name=name, data__dir=str(root), **changes)
    source = pipeline.open_source(config.data, "val")
    classes = source.label_classes
    if numbers is not None:
        assert source.numbers.tolist() == numbers
    assert set(source.numbers.tolist()) == PUBLISHED.get(kind, set(source.numbers.tolist()))

    run = RunFolder(tmp_path / "run")
    records.write_records(run, config, classes)
    network = TASKS["semantic"].network(config, len(classes.names))
    model = TASKS["semantic"].model(config, network, {"params": jnp.zeros(1)}, records.load_classes(run))
    label = (np.arange(40 * 60) % len(classes.names)).reshape(40, 60).astype(np.uint8)
    fractions = np.full((40, 60, len(classes.names)), 0.5, np.float32)
    np.put_along_axis(fractions, label[..., None].astype(int), 1, -1)
    image = np.zeros((40, 60, 3), np.uint8)
    monkeypatch.setattr(Model, "predict", lambda self, image: Prediction(label, fractions, image))

    write_results(model, image, tmp_path / "predict" / "a")
    predict_png = written(tmp_path / "predict")["a"]

    class OneImage:
        label_classes, classes, palette = source.label_classes, source.classes, source.palette
        numbers = source.numbers

        def __len__(self):
            return 1

        def __getitem__(self, index):
            return {"image": image, "label": label}

        def name(self, index):
            return "a"

    answers = jax.jit(lambda variables, images: jnp.broadcast_to(label, (len(images), 40, 60)))
    evaluate(answers, {"one": jnp.zeros(1)}, OneImage(), 1, labels=tmp_path / "eval")
    eval_png = written(tmp_path / "eval")["a"]

    explorer = Explorer([Network("a run", model)], OwnImages(), Limits())
    added = explorer.add(figures.image_png(image))
    page_png = explorer.label_png(Question(added["image"], 0, Way()))
    with Image.open(io.BytesIO(page_png)) as opened:
        pngs = [predict_png, eval_png, (page_png, np.array(opened))]

    for data, pixels in pngs:
        np.testing.assert_array_equal(pixels, source.numbers[label])
        np.testing.assert_array_equal(decode_indices(classes, data, "a.png", ""), label)
    with Image.open(io.BytesIO(predict_png[0])) as opened:
        np.testing.assert_array_equal(np.array(opened.convert("RGB")), model.palette[label])


def test_a_written_label_map_is_a_label_file_of_its_folder(tmp_path):
    """Its pixels are put in the place of the labels, and the data set is opened again."""
    root = folder("void 0 0 0\na 200 0 0\nb 0 200 0\nc 0 0 200\n", range(4), TONES)(tmp_path)
    config = helpers.load_config("folder", data__dir=str(root))
    source = pipeline.open_source(config.data, "val")
    predicted = np.where(source[0]["label"] == VOID, 0, source[0]["label"])
    for i in range(2):
        path = root / f"labels/val/{i}.png"
        figures.save_labels(path, predicted, source.palette, source.numbers.tolist())
    again = pipeline.open_source(config.data, "val")
    np.testing.assert_array_equal(again[0]["label"], predicted)


def test_numbers_come_back_and_are_checked(tmp_path):
    run = RunFolder(tmp_path)
    root = DATA["void first"][1](tmp_path / "data")
    source = pipeline.open_source(helpers.load_config("folder", data__dir=str(root)).data, "val")
    records.save_classes(run, source.label_classes)
    assert records.load_classes(run).numbers.tolist() == [1, 2, 3]
    assert records.load_classes(run).label_ids[0] == UNKNOWN  # void has no number that is kept
    values = json.loads(run.classes_file.read_text())
    for numbers in ([1, 2], [1, 1, 2], [1, 2, 256], ["1", 2, 3], 7, None):
        run.classes_file.write_text(json.dumps(values | {"numbers": numbers}))
        with pytest.raises(UserError, match=r"classes.json cannot be read.*restore it"):
            records.load_classes(run)
