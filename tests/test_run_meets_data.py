"""A run meets data in every program: names in another order are mapped, others are refused."""

import ast
import dataclasses
import json
import shutil
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from ccnet_jax import eval, explore, train
from ccnet_jax.common.errors import UserError
from ccnet_jax.common.labels import numbered_names
from ccnet_jax.config import records
from ccnet_jax.config.programs import PROGRAMS
from ccnet_jax.engine.folder import RunFolder
from ccnet_jax.models.backbones import BACKBONES
from ccnet_jax.tasks import TASKS, preparation, run_data
from tests import helpers, test_floors
from tests.miniatures import scene, write, write_coco
from tests.test_instances import SMALL

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("tiny_backbone")]

NAMES = ("ignore", "road", "house", "tree")
NARROW = {"model__width": 0.125, "batch_size": 2, "data__scale": (1.0, 1.0), "data__crop": (48, 64)}
VOIDS = ("ignore", "void", "unlabeled")


# ------------------------------------------------------------------------------------------------ the data
def write_folder(root, names=NAMES, written=NAMES, colours=False):
    """Images whose pixels are of the classes `NAMES`, with label files in which `written` have 0, 1, 2, ...

    Args:
      root: of the folder.
      names: lines of the class file; None for no file.
      written: the classes in the order of their numbers.
      colours: whether the labels are colour images.
    """
    places = {"ignore" if name in VOIDS else name: i for i, name in enumerate(written)}
    tones = {name: (40 * i, 90, 255 - 40 * i) for i, name in enumerate(written)}
    for split in ("train", "val"):
        for i in range(2):
            image, label = scene(3 * i + len(split), 48, 64)
            truth = label % len(NAMES)
            numbers = np.array([places[name] for name in NAMES], np.uint8)[truth]
            write(root / f"images/{split}/{i}.png", image)
            shown = np.array(list(tones.values()), np.uint8)[numbers] if colours else numbers
            write(root / f"labels/{split}/{i}.png", shown)
    if names is not None:
        lines = [f"{name} {' '.join(map(str, tones[name]))}" if colours else name for name in names]
        (root / "classes.txt").write_text("\n".join(lines))
    return root


def named(*order, **options):
    return lambda root: write_folder(root, order, order, **options)


def without_names(highest=3):
    """The same images under numbers from 0 to at most `highest`, and nothing that names them."""

    def make(root):
        write_folder(root, None)
        for path in root.glob("labels/*/*.png"):
            write(path, np.minimum(pixels_of(path), highest).astype(np.uint8))
        return root

    return make


def pixels_of(path):
    with Image.open(path) as image:
        return np.array(image)


def coco(change=lambda categories: categories):
    """COCO's format with changed categories; annotations of removed ones are removed."""

    def make(root):
        write_coco(root, number=2)
        for path in (root / "annotations").glob("*.json"):
            content = json.loads(path.read_text())
            content["categories"] = change(content["categories"])
            ids = {entry["id"] for entry in content["categories"]}
            content["annotations"] = [x for x in content["annotations"] if x["category_id"] in ids]
            path.write_text(json.dumps(content))
        return root

    return make


def renamed(categories):
    return [{**entry, "name": "lake"} if i == 0 else entry for i, entry in enumerate(categories)]


def reverse(categories):
    """Each name under another id; annotations keep their ids, so that objects get other names."""
    pairs = zip(categories, categories[::-1], strict=True)
    return [{**entry, "name": other["name"]} for entry, other in pairs]


# {kind of run: (data that it was trained on, changes of its config, data that fit, data that do not)}
RUNS = {
    "class file": (
        named(*NAMES),
        {},
        {
            "the same": named(*NAMES),
            "other order": named("ignore", "tree", "house", "road"),
            "void in between": named("tree", "house", "void", "road"),
            "no void": named("tree", "road", "house", "unlabeled"),
            "in colours": named("house", "road", "ignore", "tree", colours=True),
        },
        {
            "without names": without_names(),
            "as many numbers": without_names(highest=2),
            "one more": lambda root: write_folder(root, (*NAMES, "lake")),
            "one fewer": lambda root: write_folder(root, ("ignore", "void", "house", "tree")),
            "another": lambda root: write_folder(root, ("ignore", "road", "house", "trees")),
        },
    ),
    "numbers": (
        without_names(),
        {},
        {"the same": without_names(), "fewer": without_names(highest=2), "one": without_names(highest=0)},
        {
            "names": lambda root: write_folder(root, ("grass", "road", "house", "tree")),
            "void first": named(*NAMES),
            "one more": lambda root: write_more(without_names()(root)),
        },
    ),
    "names in the config": (
        lambda root: write_folder(root, None),
        {"data__classes": NAMES},
        {
            "the same": lambda root: write_folder(root, None),
            "a class file in another order": named("tree", "house", "road", "ignore"),
        },
        {"one more": lambda root: write_folder(root, (*NAMES, "lake"))},
    ),
    "instances": (
        coco(),
        {},
        {"the same": coco(), "other order": coco(reverse), "listed otherwise": coco(lambda x: x[::-1])},
        {
            "one more": coco(lambda x: [*x, {"id": 77, "name": "lake"}]),
            "one fewer": coco(lambda x: x[1:]),
            "another": coco(renamed),
        },
    ),
}


def write_more(root):
    path = next(root.glob("labels/val/*.png"))
    label = pixels_of(path)
    label[:3] = 4
    write(path, label)
    return root


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """{kind: a run of a random network, as training leaves it}."""
    made = {}
    with mock.patch.dict(BACKBONES):
        from tests import tiny_backbone  # which registers itself

        BACKBONES["tiny"] = tiny_backbone.BACKBONE
        for kind, (make, changes, _, _) in RUNS.items():
            root = tmp_path_factory.mktemp("meets")
            changes = {"data__dir": str(make(root / "data")), "steps": 3, "eval_every": 0, **changes}
            if kind == "instances":
                config = helpers.load_config("coco:r50-none", **SMALL | changes)
            else:
                changes |= {key.replace(".", "__"): value for key, value in helpers.TINY.items()}
                config = helpers.load_config("folder", **changes, **NARROW)
            source = TASKS[config.task].open(config.data, config.data.train_split)
            helpers.write_run(root / "run", config, source)
            (root / "run" / "images" / config.data.train_split).mkdir(parents=True)  # it is finished
            made[kind] = RunFolder(root / "run")
    return made


# ---------------------------------------------------------------------------------------------- the programs
def evaluated(run, data, monkeypatch, tmp_path):
    helpers.ran(monkeypatch, eval, run, "--data-dir", data, "--output", tmp_path / "scores.json")


def gone_on_with(run, data, monkeypatch, tmp_path):
    """Of a finished run: nothing is left to train."""
    helpers.ran(monkeypatch, train, "--resume", run, f"--config.data.dir={data}")


def explored(run, data, monkeypatch, tmp_path):
    monkeypatch.setattr(explore, "serve", lambda *_: None)
    helpers.ran(monkeypatch, explore, run, "--data-dir", data, "--port", "0")


MEET = {"eval": evaluated, "train": gone_on_with, "explore": explored}
MEET_NONE = {
    "demo": "trains and evaluates by these programs",
    "predict": "sees images without labels, and its classes are the run's",
    "convert": "reads weights, whose classes become the run's",
    "export": "writes the network, which knows indices only",
    "share": "copies the run's classes with it",
    "cost": "opens no data",
    "preview": "shows the data of a config, and no run",
    "prepare": "copies data, and knows no run",
    "completion": "text",
    "bench": "the op alone",
    "tune": "the op alone",
}


def test_every_program_is_known_here():
    assert set(MEET) | set(MEET_NONE) == set(PROGRAMS)


# What opens images with labels without a run: of a config, before there is a run, or to copy them.
OPEN_WITHOUT_A_RUN = {
    "ccnet_jax.tasks.run_data",
    "ccnet_jax.tasks.semantic",
    "ccnet_jax.tasks.instance",
    "ccnet_jax.data.pipeline",
    "ccnet_jax.preview",
    "ccnet_jax.prepare",
    "ccnet_jax.tasks.preparation",
    "experiments.data_throughput",
}


def opens_data(node):
    """Whether a piece of code is a function that opens the images of a split."""
    if isinstance(node, ast.Name | ast.alias):
        return getattr(node, "id", getattr(node, "name", "")) in ("open_source", "open_split")
    if not isinstance(node, ast.Attribute):
        return False
    owner = ast.unparse(node.value)
    of_a_task = node.attr == "open" and owner.split("[")[0] in ("task", "TASKS", "data_set", "DATASETS")
    return of_a_task or node.attr in ("open_unlabelled", "open_source", "open_split")


def test_no_other_code_opens_data():
    found = set()
    for module, path in test_floors.MODULES.items():
        if module.startswith("ccnet_jax.data.datasets") or module == "ccnet_jax.data.tfds_source":
            continue
        if any(map(opens_data, ast.walk(ast.parse(path.read_text())))):
            found.add(module)
    assert found <= OPEN_WITHOUT_A_RUN
    assert found >= {
        "ccnet_jax.tasks.run_data",
        "ccnet_jax.tasks.preparation",
        "ccnet_jax.preview",
    }  # it sees them


CASES = [
    (kind, name, fits)
    for kind, (_, _, *groups) in RUNS.items()
    for group, fits in zip(groups, (True, False), strict=True)
    for name in group
]


@pytest.mark.parametrize(("kind", "name", "fits"), CASES)
def test_one_function_answers_for_all_programs(runs, kind, name, fits, tmp_path, monkeypatch):
    """`run_data.opened`: the labels are the run's classes, whatever the data's numbers; or both lists."""
    make = RUNS[kind][2 if fits else 3][name]
    run, root = runs[kind], make(tmp_path / "data")
    config = records.load_config(run)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, dir=str(root)))
    classes = records.load_classes(run)
    if fits:
        found = run_data.open_images(config, config.data.eval_split, classes, run)
        assert found.classes == classes.names
        if name not in ("fewer", "one"):
            assert_same_truth(run, found)
        return
    monkeypatch.setattr(eval, "load_variables", None)  # before the network is
    monkeypatch.setattr(explore, "load", lambda *_: pytest.fail("before the network is"))
    names, split = classes.names, config.data.eval_split
    lists = f"{run} has the {len(names)} classes {', '.join(names)}, and {split} of "
    for program in MEET.values():
        before = sorted(run.path.rglob("*"))
        with pytest.raises(UserError) as error:
            program(run, root, monkeypatch, tmp_path)
        said = str(error.value).replace("train of", "val of").replace("train2017 of", "val2017 of")
        assert lists in said
        assert f"in {root} has the " in said
        assert sorted(run.path.rglob("*")) == before


def assert_same_truth(run, found):
    """The data have the same images and classes as those of the run's training, label by label."""
    config, names = records.load_config(run), found.classes
    own = run_data.open_images(config, config.data.eval_split, records.load_classes(run), run)
    for i in range(2):
        if config.task == "instance":
            pairs = [found.objects(i).classes, own.objects(i).classes]
            if found.class_ids != own.class_ids:  # the names moved on to other objects
                pairs[0] = len(names) - 1 - pairs[0]
            assert pairs[0].tolist() == pairs[1].tolist()
        else:
            np.testing.assert_array_equal(found[i]["label"], own[i]["label"])
            np.testing.assert_array_equal(found[i]["image"], own[i]["image"])


@pytest.mark.parametrize("program", MEET)
@pytest.mark.parametrize("kind", ["class file", "instances"])
def test_names_in_another_order_are_met_by_all_programs(runs, kind, program, tmp_path, monkeypatch, capsys):
    shutil.copytree(runs[kind].path, tmp_path / "run")
    run, root = RunFolder(tmp_path / "run"), RUNS[kind][2]["other order"](tmp_path / "data")
    MEET[program](run, root, monkeypatch, tmp_path)
    out = capsys.readouterr().out
    if program == "train":
        assert "is trained to its last step, 3; nothing to train" in out
    if program == "explore":
        assert "none of the run's own images" not in out
    if program == "eval":
        report = json.loads((tmp_path / "scores.json").read_text())
        assert tuple(report["classes"]) == records.load_classes(run).names
        if kind == "class file":
            evaluated(run, records.load_config(run).data.dir, monkeypatch, tmp_path)
            assert json.loads((tmp_path / "scores.json").read_text())["confusion"] == report["confusion"]


def test_a_run_that_begins_again_has_the_classes_of_its_records(runs, tmp_path):
    """The same command after the class file was put into another order."""
    run, root = runs["class file"], named("tree", "void", "road", "house")(tmp_path / "data")
    config = records.load_config(run)
    config = dataclasses.replace(config, eval_every=1, data=dataclasses.replace(config.data, dir=str(root)))
    began = preparation.data_of(config, run)
    assert all(x.classes == records.load_classes(run).names for x in began)
    fresh = preparation.data_of(config, RunFolder(tmp_path / "new"))
    assert [x.classes for x in fresh] == [("tree", "road", "house")] * 2
    for one, other in zip(began, fresh, strict=True):
        names = [np.array([*x.classes, *[""] * 253])[x[0]["label"]] for x in (one, other)]
        np.testing.assert_array_equal(*names)


def test_a_split_whose_images_have_no_labels_can_be_predicted_by_a_run_without_names(runs, tmp_path):
    root = tmp_path / "data"
    write(root / "images/test/0.png", scene(0, 48, 64)[0])
    config = records.load_config(runs["numbers"])
    place = {"dir": str(root), "images": "images/{split}", "labels": "labels/{split}"}
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, **place))
    found = run_data.open_images(
        config, "test", records.load_classes(runs["numbers"]), "a run", unlabelled=True
    )
    assert found.classes == numbered_names(4)
