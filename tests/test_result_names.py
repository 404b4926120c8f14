"""No two results of a program are one file, on whatever file system."""

import ast
import json
import shutil
import unicodedata

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from ccnet_jax import eval, predict
from ccnet_jax.common import outputs
from ccnet_jax.common.errors import UserError
from ccnet_jax.common.outputs import distinct_names
from ccnet_jax.data import pipeline
from ccnet_jax.data.config import DataConfig
from ccnet_jax.engine.folder import RunFolder
from ccnet_jax.evaluation.evaluate import DRAWN, evaluate, result_names
from ccnet_jax.tasks import TASKS
from tests import helpers, test_floors
from tests.miniatures import scene, write, write_camvid, write_coco

NFC, NFD = (unicodedata.normalize(form, "straße_é") for form in ("NFC", "NFD"))


def one_file(name):
    """A name as a file system sees it that knows neither case nor normal forms."""
    return unicodedata.normalize("NFD", unicodedata.normalize("NFC", name).casefold())


def results(names, endings):
    return [one_file(name + ending) for name in names for ending in endings]


LETTERS = st.sampled_from(["a", "A", "é", "e\N{COMBINING ACUTE ACCENT}", "-1", "-2", "-x", "ß"])
PARTS = st.lists(LETTERS, min_size=1, max_size=3).map("".join)


@given(
    st.lists(st.lists(PARTS, min_size=1, max_size=3), max_size=8),
    st.sets(st.sampled_from(["", "-x", "-1", "-2-1"]), min_size=1),
)
@example([["a"], ["a"], ["a-1"]], {""})
def test_all_results_have_names_of_their_own(candidates, endings):
    names = distinct_names(candidates, sorted(endings))
    assert len(names) == len(candidates)
    found = results(names, endings)
    assert len(set(found)) == len(found)
    first = [known[0] for known in candidates]
    for i, name in enumerate(first):  # where nothing clashes, names stay as they are
        others = {x for j, known in enumerate(candidates) if j != i for x in results(known, endings)}
        others |= {x for j, known in enumerate(candidates) if j != i for x in results([names[j]], endings)}
        if not others & set(results([name], endings)):
            assert names[i] == name


ONE_NAME = {
    "kinds": ("street.png", "street.jpg"),
    "folders": ("a/street.png", "b/street.png"),
    "folders and kinds": ("a/street.png", "b/street.jpg"),
    "folders in folders": ("a/x/street.png", "b/x/street.png", "c/x/street.png"),
    "a result's name": ("street.png", "street-overlay.png"),
    "two results' names": ("street.png", "street-figure.jpg", "street-loops.png", "street-attention.png"),
    "an object list's name": ("street.png", "street.json.png"),
    "a name with the suffix": ("street.png", "street.jpg", "street-png.png"),
    "a name with the folder": ("a/street.png", "b/street.png", "a-street-png.png"),
    "case": ("Street.png", "street.png"),
    "case of the suffix": ("street.PNG", "street.png"),
    "normal forms": (f"{NFC}.png", f"{NFD}.png"),
    "dots": ("a.b.png", "a-b.jpg", "a.b-png"),
}


@pytest.mark.parametrize("files", ONE_NAME.values(), ids=ONE_NAME)
def test_predict_gives_every_image_its_own_results(files, tmp_path):
    image, _ = scene(0, 32, 32)
    images = [tmp_path / name for name in files if name.endswith(("g", "G"))]
    for path in images:
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_bytes(cv2.imencode(".png", image)[1].tobytes())
    if len(list(tmp_path.rglob("*.*g"))) + len(list(tmp_path.rglob("*.PNG"))) < len(images):
        pytest.skip("this file system takes them for one file")
    found = predict.images([str(path) for path in images])
    assert sorted(found.values()) == sorted(images)
    names = results(found, predict._RESULTS)
    assert len(set(names)) == len(names)
    assert found == predict.images([str(path) for path in images])
    assert predict.images([str(images[0])]) == {images[0].stem: images[0]}


def test_an_image_that_is_named_twice_is_labelled_once(tmp_path, monkeypatch):
    image, _ = scene(0, 32, 32)
    write(tmp_path / "a" / "x.png", image)
    monkeypatch.chdir(tmp_path)
    assert len(predict.images(["a", "a/x.png", str(tmp_path / "a"), "a/../a/x.png"])) == 1


def test_the_program_labels_images_of_one_name(tmp_path, monkeypatch, tiny_backbone):
    changes = {key.replace(".", "__"): value for key, value in helpers.TINY.items()}
    config = helpers.load_config("demo", **changes)
    helpers.write_run(tmp_path / "run", config, TASKS["semantic"].open(config.data, "val"))
    files = ("a/street.png", "b/street.jpg", "b/street-overlay.png")
    for i, name in enumerate(files):
        write(tmp_path / name, scene(i, 48, 64)[0])
    out = tmp_path / "out"
    arguments = [tmp_path / "a", tmp_path / "b", "--workdir", tmp_path / "run", "--out", out]
    helpers.ran(monkeypatch, predict, *arguments)
    assert len(list(out.iterdir())) == 3 * len(files)
    maps = []
    for path in out.iterdir():
        with Image.open(path) as image:
            maps += [path.stem] if image.mode == "P" else []
    assert sorted(maps) == ["street-jpg", "street-overlay-png", "street-png"]


def clashing_folder(root):
    """Images whose names differ in the folder or in case only."""
    for name in ("a/b.png", "a-b.png", "A-b.png", "c.png"):
        for i, kind in enumerate(("images", "labels")):
            write(root / kind / "val" / name, scene(len(name), 48, 64)[i])
    return root


class Sources:
    """What gives several images one name: {kind: function of a folder -> source}."""

    @staticmethod
    def joined(root):
        data = DataConfig(name="camvid", dir=str(write_camvid(root / "x", images=2)))
        return pipeline.open_source(data, "train+val")

    @staticmethod
    def folder(root):
        return pipeline.open_source(DataConfig(name="folder", dir=str(clashing_folder(root / "x"))), "val")


@pytest.mark.parametrize("kind", ["joined", "folder"])
def test_an_evaluation_writes_a_label_map_and_a_drawing_of_every_image(kind, tmp_path):
    source = getattr(Sources, kind)(tmp_path)
    count = len(source)
    plain = [one_file(source.name(i)) for i in range(count)]
    assert len(set(plain)) < count
    numbered = jax.jit(lambda variables, images: (images[..., 0] % 2).astype(jnp.uint8))
    places = [tmp_path / "labels", tmp_path / "images"]
    evaluate(numbered, {"one": jnp.zeros(1)}, source, 1, drawings=places[1], labels=places[0])
    names = result_names(source, count)
    assert len(set(map(one_file, names))) == count <= DRAWN
    for place in places:
        assert sorted(path.stem for path in place.iterdir()) == sorted(names)
    for i, name in enumerate(names):
        image = source[i]["image"]
        np.testing.assert_array_equal(cv2.imread(str(places[0] / f"{name}.png"), -1), image[..., 0] % 2)
        assert (name == source.name(i)) == (plain.count(plain[i]) == 1)


def test_images_in_folders_of_a_coco_file_have_drawings_of_their_own(tmp_path):
    root = write_coco(tmp_path, number=2)
    path = root / "annotations" / "instances_val2017.json"
    content = json.loads(path.read_text())
    for folder, image in zip("ab", content["images"], strict=True):
        (root / "val2017" / folder).mkdir()
        shutil.move(root / "val2017" / image["file_name"], root / "val2017" / folder / "0.png")
        image["file_name"] = f"{folder}/0.png"
    path.write_text(json.dumps(content))
    source = TASKS["instance"].open(helpers.load_config("coco", data__dir=str(root)).data, "val2017")
    assert result_names(source, 2) == ["a-0", "b-0"]


def test_two_checkpoints_of_one_step_have_results_of_their_own():
    names = set()
    for checkpoint in ("last", "best", "r/checkpoints/last/3", "r/checkpoints/best/3", "/last", "3"):
        name = eval.name_of(eval.flags().parse(["--checkpoint", checkpoint]), "val")
        assert "/" not in name
        names.add(name)
    assert names >= {"val", "val-best", "val-last-3", "val-best-3", "val-3"}


def test_a_result_that_some_systems_take_for_a_file_that_is_read_is_refused(tmp_path):
    for read, result in (("Street.PNG", "Street.png"), (f"{NFD}.png", f"{NFC}.png")):
        (tmp_path / read).write_text("an image")
        with pytest.raises(UserError, match="would replace .* choose another folder"):
            outputs.check_folder("--out", tmp_path, [result], [tmp_path / read])
    outputs.check_folder("--out", tmp_path / "other", ["Street.png"], [tmp_path / "Street.PNG"])
    with pytest.raises(UserError, match="is too long for a file; rename that image"):
        outputs.check_folder("--out", tmp_path, ["ß" * 125 + "-figure.png"])


WRITERS = ("save_image", "save_labels", "save_grey", "write_json", "write_whole")


def is_an_image_s_own_name(part):
    """Whether code is PATH.stem, or SOURCE.name(NUMBER)."""
    if isinstance(part, ast.Call):
        return getattr(part.func, "attr", "") == "name"
    return isinstance(part, ast.Attribute) and part.attr == "stem"


def test_no_program_writes_under_an_image_s_own_name():
    """What is written for each of many images has a name that `distinct_names` has given."""
    calls = 0
    for module, path in test_floors.MODULES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            function = node.func
            if getattr(function, "attr", getattr(function, "id", "")) not in WRITERS:
                continue
            calls += 1
            names = [part for part in ast.walk(node.args[0]) if is_an_image_s_own_name(part)]
            assert not names, f"{module}, line {node.lineno}"
    assert calls > 20


def test_a_run_s_own_files_are_none_of_these_names(tmp_path):
    """`predict --out RUN` with an image that is called as one of them is refused first."""
    for path in RunFolder(tmp_path).own_files:
        path.write_text("mine")
        with pytest.raises(UserError, match="would replace"):
            outputs.check_folder("--out", tmp_path, [path.name.upper()], RunFolder(tmp_path).own_files)
