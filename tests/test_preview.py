import cv2
import numpy as np
import pytest

from ccnet_jax.config import config_files
from ccnet_jax.config.config import Config, parse
from ccnet_jax.config.config_files import ConfigName
from ccnet_jax.data import pipeline, statistics
from ccnet_jax.tasks import semantic
from tests import helpers
from tests.miniatures import scene, write_ade20k, write_camvid

pytestmark = pytest.mark.slow


def config_of(name: str, **changes: str) -> Config:
    """The config with changes, in which double underscores are dots."""
    overrides = {key.replace("__", "."): value for key, value in changes.items()}
    return parse(config_files.load(ConfigName.of(name)), overrides)


def test_the_first_crops_are_those_of_training(tmp_path):
    config = config_of("camvid", batch_size="3", data__dir=str(write_camvid(tmp_path)))
    source = pipeline.open_source(config.data, "train")
    crops = semantic.first_crops(source, config, 4)
    batches = pipeline.train_batches(source, config.data, 3, config.seed)
    trained = np.concatenate([next(batches)["image"], next(batches)["image"]])
    np.testing.assert_array_equal(crops["image"], trained[:4])
    assert crops["label"].shape == (4, 360, 480)


def test_statistics_count_every_pixel_and_size(tmp_path):
    config = config_of("ade20k", data__dir=str(write_ade20k(tmp_path)))
    source = pipeline.open_source(config.data, "val")
    pixels, sizes, count = semantic.statistics(source, 0)
    assert count == 5
    assert sizes == {(64 + 8 * i, 96): 1 for i in range(5)}
    labels = [scene(i, 64 + 8 * i, 96)[1] for i in range(5)]
    assert pixels[-1] == sum((label == 255).sum() for label in labels)
    assert pixels[0] == (labels[0] == 0).sum()  # image i's classes begin at 11 i
    assert pixels.sum() == sum(label.size for label in labels)
    assert semantic.statistics(source, 2)[2] == 2
    assert "  96 x 64  1" in statistics.sizes_text(sizes).splitlines()
    text = statistics.class_table(source.classes, pixels)
    assert f"{'wall':19}  {100 * pixels[0] / pixels[:-1].sum():7.3f}" in text
    assert f"{'flag':19}    never" in text


def test_the_program_writes_a_sheet_and_prints_the_summary(tmp_path):
    write_camvid(tmp_path / "camvid")
    arguments = ["--config=camvid", "--config.data.crop=(40, 48)"]
    output = "--output=sheets/camvid.png"
    code, out, err = helpers.run(
        "ccnet_jax.preview", *arguments, "--config.data.dir=camvid", output, "--crops=3", cwd=tmp_path
    )
    assert code == 0, err
    assert "camvid, train: 4 images" in out
    assert "96 x 64  4" in out
    sheet = cv2.imread(str(tmp_path / "sheets/camvid.png"))
    assert sheet.shape[1] > 3 * 2 * 48
    code, out, err = helpers.run("ccnet_jax.preview", *arguments, "--config.data.dir=gone", cwd=tmp_path)
    assert code == 2
    assert err.startswith("error: gone is not a folder; --config.data.dir for camvid must hold images/")
    assert err.count("\n") == 1
