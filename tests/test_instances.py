"""Instance segmentation through the programs: a folder in COCO's format is trained on and scored."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from safetensors.numpy import save_file

import ccnet_jax
from ccnet_jax import convert, eval, predict, preview, train
from ccnet_jax.common import devices
from ccnet_jax.common.errors import UserError
from ccnet_jax.config import records
from ccnet_jax.engine.checkpoints import load_variables, variables_like
from ccnet_jax.engine.folder import RunFolder
from ccnet_jax.models.backbones import BACKBONES
from ccnet_jax.models.detection.mask_rcnn import is_trained_where_frozen
from ccnet_jax.tasks import TASKS
from ccnet_jax.tasks.messages import random_weights_warnings
from ccnet_jax.weights import pretrained, visualize
from tests import shared_programs
from tests.helpers import load_config, ran
from tests.miniatures import write_coco

pytestmark = pytest.mark.slow

SMALL = {
    "model__depth": 10,
    "model__width": 1 / 16,
    "batch_size": 2,
    "eval_every": 0,
    "log_every": 1,
    "data__workers": 0,
    "data__resize": (192, 96),
    "optimizer__warmup_steps": 1,
    "optimizer__milestones": (2,),
    "detection__objects": 6,
    "detection__anchor_scale": 4.0,
    "detection__train_proposals": 20,
    "detection__test_proposals": 10,
    "detection__sampled_anchors": 16,
    "detection__sampled_regions": 16,
    "detection__lowest_score": 0.0,
    "detection__detections": 5,
}


def variables_of(run):
    """The variables of a run's last checkpoint, by their names."""
    config = records.load_config(run)
    network = TASKS[config.task].network(config, 5)
    variables, _ = load_variables(run, "last", variables_like(network, devices.data_mesh()))
    return {jax.tree_util.keystr(path): np.asarray(x) for path, x in jax.tree.leaves_with_path(variables)}


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    return write_coco(tmp_path_factory.mktemp("coco"))


@pytest.fixture(scope="module")
def said():
    """What training said in the making of `runs`."""
    return []


@pytest.fixture(scope="module")
def runs(coco, said, tmp_path_factory):
    """{"whole": a run of four steps, "resumed": one of three steps that went on to four}."""
    folder = tmp_path_factory.mktemp("runs")
    config = functools.partial(load_config, "coco:r50-rcca", data__dir=str(coco), **SMALL)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        shared_programs.share(patch)
        patch.setattr(pretrained, "say", said.append)
        whole, resumed = RunFolder(folder / "whole"), RunFolder(folder / "resumed")
        train.train(config(steps=4), whole)
        train.train(config(steps=3), resumed)
        train.train(config(steps=4), resumed)
    return {"whole": whole, "resumed": resumed}


def test_a_run_that_was_stopped_goes_on_bit_for_bit(runs):
    whole, resumed = (variables_of(run) for run in runs.values())
    assert all((resumed[name] == value).all() for name, value in whole.items())


def test_frozen_parameters_stay_and_all_others_change(runs):
    config = records.load_config(runs["whole"])
    network = TASKS["instance"].network(config, 5)
    start = jax.jit(network.init)(jax.random.key(config.seed), np.zeros((1, 64, 64, 3), np.float32))
    before = {jax.tree_util.keystr(path): np.asarray(x) for path, x in jax.tree.leaves_with_path(start)}
    after = variables_of(runs["whole"])
    for path, _ in jax.tree.leaves_with_path(start["params"]):
        name, names = f"['params']{jax.tree_util.keystr(path)}", tuple(key.key for key in path)
        same = (before[name] == after[name]).all()
        assert same == (not is_trained_where_frozen(names)), name


def test_a_frozen_backbone_of_random_weights_is_told_at_the_start(runs, said):
    warnings = [line for line in said if "config.detection.frozen keeps" in line]
    assert len(warnings) == len(runs)  # and not where one of them goes on
    assert "are random: pass --config.pretrained, or --config.detection.frozen=False" in warnings[0]
    for config in (load_config("streets_instances"), load_config("demo")):
        assert not random_weights_warnings(config, TASKS[config.task])


def test_metrics_and_images_of_training(runs):
    lines = [json.loads(line) for line in runs["whole"].metrics_file.read_text().splitlines()]
    losses = {"objectness_loss", "proposal_loss", "class_loss", "box_loss", "mask_loss"}
    for line in lines:
        assert line["loss"] == pytest.approx(sum(line[name] for name in losses), rel=1e-5)
    rates = [line["learning_rate"] for line in lines]
    np.testing.assert_allclose(rates, [0.02 / 3, 0.02, 0.002, 0.002], rtol=1e-5)
    assert len(list(runs["whole"].images("train2017").iterdir())) == 5


def test_a_run_is_scored_and_its_detections_are_cocos(runs, coco, tmp_path, monkeypatch, capsys):
    labels, output = tmp_path / "labels", tmp_path / "scores.json"
    ran(monkeypatch, eval, runs["whole"], "--labels", labels, "--output", output)
    assert "mask AP" in capsys.readouterr().out
    report = json.loads(output.read_text())
    assert (report["images"], report["step"], report["split"]) == (5, 4, "val2017")
    for kind in ("box", "mask"):
        assert 0 <= report[kind]["AP"] <= 1
        assert set(report[kind]["classes"]) == set(report["classes"])
    found = json.loads((labels / "detections.json").read_text())
    truth = json.loads((coco / "annotations" / "instances_val2017.json").read_text())
    assert {x["image_id"] for x in found} <= {x["id"] for x in truth["images"]}
    assert {x["category_id"] for x in found} <= {x["id"] for x in truth["categories"]}
    for detection in found:
        assert coco_mask.decode(detection["segmentation"]).shape == (96, 192)
    for arguments in (("--ms-flip",), ("--window", "64,64")):
        with pytest.raises(UserError, match="tested on whole images at one scale: omit --ms-flip"):
            ran(monkeypatch, eval, runs["whole"], *arguments)


def test_an_image_is_predicted(runs, coco, tmp_path, monkeypatch):
    image = coco / "val2017" / f"{0:012}.png"
    model = ccnet_jax.load(runs["whole"].path)
    found = model.predict(image)
    count = len(found.boxes)
    assert 0 < count <= 5
    assert found.masks.shape == (count, 96, 192)
    assert found.overlay.ndim == 3
    assert (np.diff(found.scores) <= 0).all()
    small = model.predict(np.asarray(Image.open(image).resize((90, 61))))
    assert small.masks.shape[1:] == (61, 90)
    assert (small.boxes <= [90, 61, 90, 61]).all()

    raw = jax.jit(model)(np.asarray(Image.open(image))[None])
    np.testing.assert_allclose(raw.boxes[0][:count], found.boxes, atol=1e-3)

    head = model.variables["params"]["mask_head"]  # in which NaN hides: no detection depends on it
    spoilt = model.variables["params"] | {"mask_head": jax.tree.map(lambda x: x * np.nan, head)}
    with pytest.raises(UserError, match=f"the network's output for .*{image.name} is not finite"):
        model.replace(variables=model.variables | {"params": spoilt}).predict(image)

    ran(monkeypatch, predict, image, "--workdir", runs["whole"], "--out", tmp_path)
    names = {f"{image.stem}.json", f"{image.stem}-overlay.png"}
    assert {path.name for path in tmp_path.iterdir()} == names
    objects = json.loads((tmp_path / f"{image.stem}.json").read_text())
    np.testing.assert_allclose([x["box"] for x in objects], found.boxes, atol=1e-4)
    np.testing.assert_array_equal([coco_mask.decode(x["mask"]) for x in objects], found.masks)
    assert [x["class"] for x in objects] == [model.classes[label] for label in found.classes]
    with pytest.raises(UserError, match="finds instances: omit --ms-flip, --attention"):
        ran(monkeypatch, predict, image, "--workdir", runs["whole"], "--out", tmp_path, "--loops", "1,2")
    with pytest.raises(UserError, match="are 97x192, and their sides must be multiples of 32"):
        model(np.zeros((1, 97, 192, 3), np.uint8))
    for size, message in (
        ([50, 50], r"size is \[2\], and must be \[1, 2\]: the height and width of each image"),
        ([[500, 60]], "size says that image 0 has 500 rows and 60 columns, and images are 64x64"),
        ([[0, 60]], "size says that image 0 has 0 rows"),
    ):
        with pytest.raises(UserError, match=message):
            model(np.zeros((1, 64, 64, 3), np.uint8), jnp.array(size))
    with pytest.raises(UserError, match="attention maps are of networks for semantic segmentation"):
        visualize.attention_map(model, image, (10, 10))


def test_classes_of_another_file_are_found_by_their_names(runs, coco, tmp_path, monkeypatch):
    """A file whose categories stand in another order, under other ids, has the same scores."""
    content = json.loads((coco / "annotations" / "instances_val2017.json").read_text())
    new = {entry["id"]: 100 - entry["id"] for entry in content["categories"]}
    categories = [{**entry, "id": new[entry["id"]]} for entry in content["categories"]]
    annotations = [{**x, "category_id": new[x["category_id"]]} for x in content["annotations"]]
    path = tmp_path / "annotations" / "instances_val2017.json"
    path.parent.mkdir()
    path.write_text(json.dumps({**content, "categories": categories, "annotations": annotations}))
    (tmp_path / "val2017").symlink_to(coco / "val2017")
    classes = records.load_classes(runs["whole"]).names
    assert records.load_config(runs["whole"]).data.classes is None
    data = load_config("coco", data__dir=str(tmp_path)).data
    assert TASKS["instance"].open(data, "val2017").classes == classes[::-1]  # in the order of their ids
    scores = []
    for folder in (coco, tmp_path):
        ran(monkeypatch, eval, runs["whole"], "--data-dir", folder, "--output", tmp_path / "s.json")
        scores.append(json.loads((tmp_path / "s.json").read_text()))
    assert scores[0]["mask"] == scores[1]["mask"]
    assert scores[0]["classes"] == scores[1]["classes"]


def test_objects_that_are_left_out_are_told(coco):
    config = load_config("coco", data__dir=str(coco), **{**SMALL, "detection__objects": 2})
    source = TASKS["instance"].open(config.data, "train2017")
    counts = [source.count(i) for i in range(5)]
    text = TASKS["instance"].summary(config, source, "train2017")
    found = f"5 images, {sum(counts)} objects of 5 classes"
    assert found in text
    assert "1 image without an object is not trained on" in text
    crowded = [count for count in counts if count > 2]
    assert f"{len(crowded)} images have more than 2 objects" in text
    assert f"{sum(crowded) - 2 * len(crowded)} objects are left out" in text
    # nothing of a validation split is trained on
    assert TASKS["instance"].summary(config, source, "val2017") == f"coco, val2017: {found}"


def test_objects_that_are_left_out_are_told_of_scenes_too():
    """They are drawn when they are asked for: some are counted."""
    task = TASKS["instance"]
    config = load_config("streets_instances", detection__objects=8)
    source = task.open(config.data, "train")
    counts = [len(source.objects(i).boxes) for i in np.linspace(0, len(source) - 1, 50).astype(int)]
    crowded = [count for count in counts if count > 8]
    assert task.summary(config, source, "train").splitlines() == [
        "streets_instances, train: 8,000 images",
        f"  of 50 images counted, {len(crowded)} images have more than 8 objects, the largest of which "
        f"are trained on: {sum(crowded) - 8 * len(crowded)} objects are left out; raise "
        "config.detection.objects",
    ]
    enough = load_config("streets_instances")
    assert task.summary(enough, source, "train") == "streets_instances, train: 8,000 images"


def test_annotations_without_area_are_told(coco, tmp_path):
    content = json.loads((coco / "annotations" / "instances_train2017.json").read_text())
    content["annotations"][0]["bbox"][2] = 0
    path = tmp_path / "annotations" / "instances_train2017.json"
    path.parent.mkdir()
    path.write_text(json.dumps(content))
    (tmp_path / "train2017").symlink_to(coco / "train2017")
    config = load_config("coco", data__dir=str(tmp_path))
    text = TASKS["instance"].summary(config, TASKS["instance"].open(config.data, "train2017"), "train2017")
    assert "\n  1 annotation is left out: its box has no area" in text


def test_a_test_split_is_predicted_without_annotations(runs, coco, tmp_path, monkeypatch, capsys):
    content = json.loads((coco / "annotations" / "instances_val2017.json").read_text())
    del content["annotations"]
    path = tmp_path / "annotations" / "image_info_test-dev2017.json"
    path.parent.mkdir()
    path.write_text(json.dumps(content))
    (tmp_path / "test-dev2017").symlink_to(coco / "val2017")
    split = (runs["whole"], "--data-dir", tmp_path, "--split", "test-dev2017")
    ran(monkeypatch, eval, *split, "--labels", tmp_path / "labels")
    assert f"5 predictions in {tmp_path / 'labels'}" in capsys.readouterr().out
    assert json.loads((tmp_path / "labels" / "detections.json").read_text())
    with pytest.raises(UserError, match="has no list 'annotations'; test splits have no annotations"):
        ran(monkeypatch, eval, *split)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        (
            "coco",
            {"task": "semantic"},
            "config.data.name='coco' is for config.task='instance', not 'semantic'",
        ),
        ("demo", {"task": "instance"}, "config.data.name='streets' is for config.task='semantic'"),
        ("demo", {"detection__objects": 5}, "config.detection.objects is not for config.task='semantic'"),
        ("coco", {"data__crop": (64, 64)}, "config.data.crop is not for config.task='instance'"),
        ("coco", {"loss__name": "ohem"}, "config.loss.name is not for config.task='instance'"),
        (
            "coco",
            {"data__source": "tfds"},
            "config.data.source='tfds' is for config.task='semantic', not 'instance'; change one of the two",
        ),
        ("coco", {"model__backbone": "other"}, "config.model.backbone is not for config.task='instance'"),
        (
            "coco",
            {"optimizer__name": "adamw"},
            "config.optimizer.bias_learning_rate=2.0 is not for config.optimizer.name='adamw'; set it 1.0",
        ),
        (
            "coco",
            {"steps": 80_000},
            "config.optimizer.milestones=(60000, 80000) must lie below config.steps=80000",
        ),
        ("coco", {"data__palette": ((1, 2, 3),)}, "config.data.palette is for data.name=folder"),
    ],
)
def test_keys_of_another_task_get_a_message(name, changes, message, monkeypatch):
    monkeypatch.setitem(BACKBONES, "other", BACKBONES["resnet"])
    with pytest.raises(UserError) as error:
        load_config(name, **changes)
    assert message in str(error.value)


def test_a_run_of_the_other_task_gets_a_message(runs, coco, tmp_path):
    changes = {**SMALL, "steps": 6, "data__dir": str(coco)}
    demo = load_config("demo", steps=6)
    with pytest.raises(UserError, match=r"holds a run with .*task='instance', not 'semantic'"):
        train.train(demo, runs["whole"])
    records.save_config(RunFolder(tmp_path), demo)
    (tmp_path / "checkpoints" / "last" / "1").mkdir(parents=True)
    with pytest.raises(UserError, match=r"holds a run with .*task='semantic', not 'instance'"):
        train.train(load_config("coco:r50-rcca", **changes), RunFolder(tmp_path))


def test_the_data_are_previewed(coco, tmp_path, monkeypatch, capsys):
    output = tmp_path / "preview.png"
    small = ("--config.data.resize=192,96", "--config.data.workers=0", "--config.batch_size=2", "--crops=3")
    ran(monkeypatch, preview, "--config", "coco", f"--config.data.dir={coco}", f"--output={output}", *small)
    out = capsys.readouterr().out
    source = TASKS["instance"].open(load_config("coco", data__dir=str(coco)).data, "train2017")
    assert f"train2017: 5 images, {sum(map(source.count, range(5)))} objects of 5 classes" in out
    people = sum((source.objects(i).classes == 0).sum() for i in range(5))
    assert [line.split() for line in out.splitlines() if "person" in line] == [
        ["person", f"{people}", "objects"]
    ]
    assert "the first 3 images of training: " in out
    sheet = np.asarray(Image.open(output))
    assert sheet.shape[1] > 2 * 192
    assert len(np.unique(sheet.reshape(-1, 3), axis=0)) > 100


def test_programs_that_know_one_task_say_so(runs, tmp_path, monkeypatch):
    other = tmp_path / "other.safetensors"
    save_file({"conv1.weight": np.zeros((64, 3, 7, 7), np.float32)}, other)
    out = tmp_path / "w.safetensors"
    for arguments, message in (
        ((runs["whole"], "--to", "torch", "--out", out), "only networks that label pixels can be written"),
        ((other, "--config", "coco", "--out", tmp_path / "run"), "is no Mask R-CNN, and the config has"),
    ):
        with pytest.raises(UserError, match=message):
            ran(monkeypatch, convert, *arguments)


def test_a_split_without_annotations_or_objects_gets_a_message(coco, tmp_path, monkeypatch):
    data = load_config("coco", data__dir=str(coco)).data
    for split, message in (("test2017", "does not exist; data.dir must hold"), ("a+b", "cannot join")):
        with pytest.raises(UserError, match=message):
            TASKS["instance"].open(data, split)
    path = tmp_path / "annotations" / "instances_train2017.json"
    path.parent.mkdir()
    content = json.loads((coco / "annotations" / "instances_train2017.json").read_text())
    path.write_text(json.dumps({**content, "annotations": []}))
    (tmp_path / "train2017").symlink_to(coco / "train2017")
    config = load_config("coco", data__dir=str(tmp_path))
    source = TASKS["instance"].open(config.data, "train2017")
    with pytest.raises(UserError, match="has no objects to train on"):
        TASKS["instance"].check(config, source, 2)
    flags = (f"--config.data.dir={tmp_path}", "--config.data.eval_split=train2017")
    with pytest.raises(UserError, match="has no objects to train on"):
        ran(monkeypatch, preview, "--config", "coco", *flags, f"--output={tmp_path / 'preview.png'}")
