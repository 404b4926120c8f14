"""Scores of a split, and the program that computes them."""

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccnet_jax import eval
from ccnet_jax.common.errors import UserError
from ccnet_jax.common.labels import VOID, Classes
from ccnet_jax.config import records
from ccnet_jax.data import pipeline
from ccnet_jax.engine.folder import RunFolder
from ccnet_jax.evaluation.evaluate import evaluate
from tests import helpers
from tests.miniatures import write_camvid, write_cityscapes

pytestmark = pytest.mark.slow


class Mixed:
    """Images of three sizes, labelled at random; some void."""

    label_classes = Classes(("a", "b", "c"), np.array([(255, 0, 0), (0, 255, 0), (0, 0, 255)], np.uint8))
    classes, palette, numbers = label_classes.names, label_classes.palette, label_classes.numbers

    def __len__(self):
        return 7

    def __getitem__(self, i):
        rng = np.random.default_rng(i)
        size = [(40, 33), (32, 64), (33, 33)][i % 3]
        label = rng.integers(0, 3, size).astype(np.uint8)
        label[rng.random(size) < 0.1] = 255
        return {"image": rng.integers(0, 256, (*size, 3), np.uint8), "label": label}

    def name(self, i):
        return f"image{i}"


def test_scores_are_exact_over_images_of_different_sizes_and_a_device_mesh(tmp_path):
    source = Mixed()
    seen = set()

    @jax.jit
    def predict(variables, images):
        return (images[..., 0] % 3) * variables["one"]

    def record(variables, images):
        seen.add((images.shape, len(images.sharding.device_set)))
        return predict(variables, images)

    wanted = np.zeros((3, 3), np.int64)
    for i in range(7):
        sample = source[i]
        for true, red in zip(sample["label"].ravel(), sample["image"][..., 0].ravel(), strict=True):
            if true != 255:
                wanted[true, red % 3] += 1
    result = evaluate(record, {"one": jnp.uint8(1)}, source, 2, tmp_path)
    np.testing.assert_array_equal(result["confusion"], wanted)
    hit = np.diag(wanted)
    np.testing.assert_allclose(result["IoU"], hit / (wanted.sum(0) + wanted.sum(1) - hit))
    assert result["images"] == 7
    assert seen == {((8, 40, 33, 3), 8), ((8, 32, 64, 3), 8), ((8, 33, 33, 3), 8)}
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"image{i}.png" for i in range(7)]
    assert evaluate(record, {"one": jnp.uint8(1)}, source, 2, limit=2)["images"] == 2


def test_an_output_that_is_not_finite_ends_the_evaluation_and_names_the_image():
    """Pixels without a class; those of the images that fill a batch up do not count."""

    def predict(variables, images):
        black = (images == 0).all((1, 2, 3))
        third = images[:, 0, 0, 0] == Mixed()[2]["image"][0, 0, 0]
        return jnp.where((black | (third & variables["spoilt"]))[:, None, None], VOID, 0 * images[..., 0])

    assert evaluate(predict, {"spoilt": jnp.bool(False)}, Mixed(), 8, limit=3)["images"] == 3
    with pytest.raises(UserError, match="the network's output for image image2 is not finite: its weights"):
        evaluate(predict, {"spoilt": jnp.bool(True)}, Mixed(), 8, limit=3)


def test_eval_tests_as_the_config_says_and_refuses_a_split_without_labels(tmp_path):
    folder = write_camvid(tmp_path / "camvid", images=2)
    for path in (folder / "labels/val").iterdir():
        cv2.imwrite(str(path), np.full((64, 96), 255, np.uint8))
    changes = {"data__name": "camvid", "data__dir": str(folder), "eval_window": (64, 64)}
    config = helpers.load_config("demo", **changes, eval_stride=(43, 43))
    helpers.write_run(tmp_path / "run", config, pipeline.open_source(config.data, "val"))
    code, out, err = helpers.run("ccnet_jax.eval", "--workdir=run", cwd=tmp_path)
    assert code == 2, err
    assert "step 3, split val, slide 64x64/43x43" in out
    assert "error: split val of camvid has no labels to score; choose another with --split" in err
    assert not list((tmp_path / "run").glob("eval*"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--window=whole", "--stride=3,3"], "--stride goes with a --window of HEIGHT,WIDTH, not with whole"),
        (["--stride=3,3"], "--stride goes with --window; pass both"),
        (["--window=64"], "--window=64 must be HEIGHT,WIDTH in whole numbers"),
        (["--window=64,64", "--stride=65,64"], r"eval_stride=\(65, 64\) leaves gaps between windows"),
    ],
)
def test_windows_that_mean_nothing_are_refused(arguments, words):
    with pytest.raises(UserError, match=words):
        eval.test_mode(eval.flags().parse(arguments), helpers.load_config("demo"))


def test_a_missing_folder_of_data_is_told_in_the_words_of_the_programs_own_flag(tmp_path, monkeypatch):
    run = RunFolder(tmp_path / "run")
    for task, name in (("semantic", "camvid"), ("instance", "coco")):
        records.save_config(run, helpers.load_config(name, data__dir="/nowhere"))
        records.save_classes(run, Mixed.label_classes)
        for flags in ((), ("--data-dir", "/nope")):
            with pytest.raises(UserError, match=rf"^/no\w+ is not a folder; --data-dir for {name} must hold"):
                helpers.ran(monkeypatch, eval, run, *flags)
        assert records.load_config(run).task == task


def test_a_test_servers_folder_holds_every_prediction_in_the_data_sets_own_numbers(tmp_path):
    folder = write_cityscapes(tmp_path / "cityscapes", images=2)
    config = helpers.load_config("demo", data__name="cityscapes", data__dir=str(folder))
    source = pipeline.open_source(config.data, "test")
    helpers.write_run(tmp_path / "run", config, source)
    arguments = ("--workdir=run", "--split=test", "--labels=server", "--window=64,64")
    code, out, err = helpers.run("ccnet_jax.eval", *arguments, cwd=tmp_path)
    assert code == 0, err
    assert "split test, slide 64x64/43x43" in out
    assert "2 predictions in server" in out
    names = [source.name(i) for i in range(2)]
    assert names[0].startswith("aachen_")
    assert sorted(path.stem for path in (tmp_path / "server").iterdir()) == names
    published = {7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33}
    for name in names:
        ids = cv2.imread(str(tmp_path / "server" / f"{name}.png"), cv2.IMREAD_UNCHANGED)
        assert ids.shape == (64, 128)
        assert ids.dtype == np.uint8
        assert set(np.unique(ids)) <= published
        assert len(np.unique(ids)) > 1
