"""Images that are corrupt or removed while a run lasts: replaced in a fixed way, named once, counted."""

import itertools
import json
import re

import numpy as np
import pytest

from ccnet_jax.common.errors import UserError
from ccnet_jax.data import pipeline
from ccnet_jax.data.config import DataConfig
from ccnet_jax.data.images import UnusableImage
from ccnet_jax.tasks import TASKS
from tests.helpers import load_config
from tests.miniatures import write_camvid

pytestmark = pytest.mark.slow

BATCH, SEED = 2, 5


@pytest.fixture
def folder(tmp_path):
    return write_camvid(tmp_path, images=6)


def opened(folder, **changes):
    data = DataConfig(name="camvid", dir=str(folder), **changes)
    return pipeline.open_source(data, "train"), data


def batches_of(source, data, **changes):
    return pipeline.train_batches(source, data, BATCH, SEED, **changes)


def names_until(source, step):
    return [pipeline.batch_names(source, BATCH, SEED, i) for i in range(1, step + 1)]


def shown(source, batches, count):
    """The names of the images in batches, found by their pixels."""
    whole = {source.name(i): source[i]["image"] for i in range(len(source))}
    return [
        [next(name for name, pixels in whole.items() if (pixels == image).all()) for image in batch["image"]]
        for batch in itertools.islice(batches, count)
    ]


def spoil(folder):
    """One image is cut off and another removed."""
    path = folder / "images/train/1.png"
    path.write_bytes(path.read_bytes()[:1000])
    (folder / "images/train/4.png").unlink()


def test_the_images_of_a_batch_are_named_without_reading_them(folder):
    source, data = opened(folder)
    expected = shown(source, batches_of(source, data), 7)
    spoil(folder)
    assert names_until(source, 7) == expected
    config = load_config("demo", data__name="camvid", data__dir=str(folder), batch_size=BATCH, seed=SEED)
    assert TASKS["semantic"].batch_names(config, source, 7) == expected[6]


@pytest.mark.parametrize("workers", [0, 1])
def test_the_next_images_of_the_order_take_the_place_of_corrupt_ones(folder, capsys, workers):
    source, data = opened(folder, skip_corrupt=2, workers=workers)
    place = list(itertools.chain(*names_until(source, 30)))
    expected = [next(name for name in place[i:] if name not in "14") for i in range(40)]
    samples = {source.name(i): source[i]["image"] for i in range(6)}
    spoil(folder)
    batches = batches_of(source, data, start=1)
    found = list(itertools.islice(batches, 19))
    assert {tuple(batch) for batch in found} == {("image", "label")}
    for i, batch in enumerate(found, 1):
        np.testing.assert_array_equal(batch["image"], [samples[name] for name in expected[2 * i : 2 * i + 2]])
    said = capsys.readouterr().err
    assert re.findall(r"warning: .*/(\d).png (.*) \(.*; .*\. Others .*image (\d) of the 2", said) in (
        [("1", "is corrupt or not an image", "1"), ("4", "cannot be read", "2")],
        [("4", "cannot be read", "1"), ("1", "is corrupt or not an image", "2")],
    )
    assert said.count("warning") == 2
    replaced = [sum(name in "14" for name in place[2 * i : 2 * i + 2]) for i in range(20)]
    assert batches.read(7) == {"replaced_images": sum(replaced[1:7])}
    assert batches.read(20) == {"replaced_images": sum(replaced[7:])}
    assert batches.read(20) == {"replaced_images": 0}
    batches.close()


def test_a_stream_that_goes_on_names_no_image_again_and_counts_each_once(folder, capsys):
    source, data = opened(folder, skip_corrupt=2)
    spoil(folder)
    whole, cut = batches_of(source, data), batches_of(source, data)
    list(itertools.islice(whole, 12))
    list(itertools.islice(cut, 9))  # training is at 7, and two batches ahead
    assert cut.read(2) == whole.read(2)
    kept = json.loads(json.dumps(cut.progress(7)))
    cut.close()
    assert capsys.readouterr().err.count("warning") == 4
    further = batches_of(source, data, start=7)
    further.go_on_from(kept)
    list(itertools.islice(further, 5))
    assert "warning" not in capsys.readouterr().err
    assert further.read(12) == whole.read(12)

    (folder / "images/train/2.png").unlink()
    with pytest.raises(UserError, match=r"train/2.png .*one corrupt image more than .*skip_corrupt=2"):
        list(itertools.islice(further, 12))


def test_more_corrupt_images_than_allowed_end_the_stream(folder, capsys):
    source, data = opened(folder, skip_corrupt=1)
    spoil(folder)
    words = r"train/[14].png .*That is one corrupt image more than config.data.skip_corrupt=1"
    with pytest.raises(UserError, match=words):
        list(itertools.islice(batches_of(source, data), 6))
    assert capsys.readouterr().err.count("warning") == 1


def test_without_leave_the_first_corrupt_image_ends_the_stream(folder):
    source, data = opened(folder)
    spoil(folder)
    batches = batches_of(source, data)
    with pytest.raises(UnusableImage, match=r"train/(1.png is corrupt .* fetch|4.png cannot be read)"):
        list(itertools.islice(batches, 6))
    assert batches.read(6) == {}


def test_a_data_set_that_went_away_ends_the_stream(folder):
    source, data = opened(folder, skip_corrupt=100)
    batches = batches_of(source, data)
    for path in (folder / "labels/train").iterdir():
        path.unlink()
    with pytest.raises(UnusableImage, match="labels/train/.*.png cannot be read .* all are corrupt"):
        list(itertools.islice(batches, 30))
