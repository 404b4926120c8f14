import hashlib
import itertools

import numpy as np
import pytest

from ccnet_jax.common.errors import UserError
from ccnet_jax.common.labels import Classes
from ccnet_jax.data import config, pipeline
from ccnet_jax.data.config import DataConfig
from ccnet_jax.data.datasets import DATASETS
from ccnet_jax.data.datasets.streets import Streets
from ccnet_jax.data.sources import DataSet

pytestmark = pytest.mark.slow


class Numbered:
    """Ten images of different sizes; every pixel of image i is i."""

    classes = tuple("abcdefghij")
    palette = np.zeros((10, 3), np.uint8)
    numbers = np.arange(10, dtype=np.uint8)
    label_classes = Classes(classes, palette)

    def __len__(self):
        return 10

    def __getitem__(self, i):
        size = (66 + i % 3, 99)
        return {"image": np.full((*size, 3), i, np.uint8), "label": np.full(size, i, np.uint8)}

    def name(self, i):
        return str(i)


def settings(**changes):
    return DataConfig(**{"flip": True, "distort": True, **changes})


def first(batches, count):
    return list(itertools.islice(batches, count))


def assert_same(a, b):
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(x["image"], y["image"])
        np.testing.assert_array_equal(x["label"], y["label"])


def test_batches_are_a_function_of_seed_and_number():
    source = Streets("val")
    whole = first(pipeline.train_batches(source, settings(), 4, seed=1), 5)
    assert whole[0]["image"].shape == (4, 96, 192, 3)
    assert_same(whole, first(pipeline.train_batches(source, settings(), 4, seed=1), 5))
    assert_same(whole[3:], first(pipeline.train_batches(source, settings(), 4, seed=1, start=3), 2))
    other = first(pipeline.train_batches(source, settings(), 4, seed=2), 1)
    assert not np.array_equal(whole[0]["image"], other[0]["image"])


def test_batches_are_those_of_earlier_versions():
    """Written down before training read tiles. Labels show every draw; images are rounded by OpenCV."""
    data = settings(scale=(0.5, 2.0), crop=(64, 96), cat_max_ratio=0.75)
    batch = first(pipeline.train_batches(Streets("train"), data, 8, seed=3), 1)[0]
    assert hashlib.sha256(batch["label"].tobytes()).hexdigest().startswith("25174dc203b9eb6222f468ad0e9b8c71")
    means = [[169.05, 155.65, 154.47], [129.49, 121.34, 118.8], [168.89, 160.5, 174.03]]
    assert np.abs(batch["image"][:3].mean((1, 2)) - means).max() < 0.1


def test_worker_processes_make_the_same_batches():
    source, data = Numbered(), {"crop": (32, 32), "scale": (0.5, 2.0), "cat_max_ratio": 0.75}
    threads = first(pipeline.train_batches(source, settings(**data), 4, seed=1, start=2), 7)
    processes = pipeline.train_batches(source, settings(**data, workers=3), 4, seed=1, start=2)
    assert_same(threads, first(processes, 7))
    processes.close()


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_every_batch_between_them(processes):
    source, data = Numbered(), settings(crop=(32, 32), scale=(0.5, 2.0))
    whole = first(pipeline.train_batches(source, data, 4, seed=1), 6)
    parts = [
        first(pipeline.train_batches(source, data, 4, seed=1, process=p, processes=processes), 6)
        for p in range(processes)
    ]
    for batch, *splits in zip(whole, *parts, strict=True):
        for key in batch:
            np.testing.assert_array_equal(np.concatenate([split[key] for split in splits]), batch[key])


def test_images_of_different_sizes_need_a_crop():
    with pytest.raises(UserError, match="images of 99x66 and 99x67 pixels cannot be one batch.*data.crop"):
        first(pipeline.train_batches(Numbered(), settings(), 4, seed=1), 3)


def test_every_epoch_visits_each_image_once_in_a_new_order():
    source, data = Numbered(), settings(crop=(66, 99), distort=False)
    batches = first(pipeline.train_batches(source, data, 5, seed=1), 6)
    order = [int(image[0, 0, 0]) for batch in batches for image in batch["image"]]
    epochs = [order[:10], order[10:20], order[20:]]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


@pytest.mark.parametrize("batch_size", [1, 2, 4])
@pytest.mark.parametrize("processes", [1, 2])
def test_evaluation_gives_every_image_once_grouped_by_size(batch_size, processes):
    seen = []
    for process in range(processes):
        for batch in pipeline.evaluation_batches(Numbered(), 10, batch_size, process, processes):
            assert batch["image"].shape[0] == batch_size
            for image, label, index in zip(batch["image"], batch["label"], batch["index"], strict=True):
                if index < 0:
                    assert (label == 255).all()
                else:
                    seen.append(int(index))
                    assert (image == index).all()
                    assert label.shape == (66 + index % 3, 99)
    assert sorted(seen) == list(range(10))


def test_evaluation_of_the_first_images_only():
    batches = pipeline.evaluation_batches(Numbered(), 4, 2)
    assert sorted(int(i) for batch in batches for i in batch["index"] if i >= 0) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"scale": (0.1, 2.0)}, r"config.data.scale=\(0.1, 2.0\) makes sides of 7 to 198 pixels .* is 99x66"),
        ({"scale": (1.0, 900.0)}, "makes sides of 66 to 89100 pixels"),
        ({"short_sides": (32, 30_000)}, r"short_sides=\(32, 30000\) makes sides of 32 to 45000"),
        ({"resize": (32, 32)}, "config.data.resize=.32, 32. makes sides of 21 to 32 pixels"),
        (
            {"resize": (99, 66), "scale": (0.1, 1.0)},
            "config.data.resize=.* and config.data.scale=.* make sides",
        ),
    ],
)
def test_resizing_keeps_the_sides_within_bounds(changes, words):
    with pytest.raises(UserError, match=words):
        pipeline.train_batches(Numbered(), settings(crop=(32, 32), **changes), 4, seed=1)


def test_an_image_that_becomes_too_large_in_training():
    data, rng = settings(crop=(32, 32), short_sides=(256,)), np.random.default_rng(0)
    sample = {"image": np.zeros((2, 300, 3), np.uint8), "label": np.zeros((2, 300), np.uint8)}
    with pytest.raises(UserError, match="300x2 pixels is resized to 38400x256; lower"):
        pipeline.augment(sample, rng, data)


def test_a_batch_that_memory_cannot_hold_is_refused_before_it_is_made(monkeypatch):
    monkeypatch.setattr(config.os, "sysconf", lambda name: 1000 if name == "SC_PAGE_SIZE" else 100)
    pipeline.train_batches(Numbered(), settings(crop=(66, 99)), 3, seed=1)
    with pytest.raises(UserError, match="config.batch_size=4 needs 0.0 GB for one batch of 99x66 images"):
        pipeline.train_batches(Numbered(), settings(), 4, seed=1)


def test_the_summary_of_a_data_set_that_has_none_of_its_own():
    assert pipeline.summary(DataConfig(), Streets("val"), "val") == "streets, val: 100 images"
    assert pipeline.summary(DataConfig(), Streets("val")) == "streets: 100 images"


def test_a_split_without_images_is_named(monkeypatch):
    class Nothing(Numbered):
        def __len__(self):
            return 0

    empty = DataSet(Nothing.label_classes, ("train",), lambda location, split: Nothing())
    monkeypatch.setitem(DATASETS, "nothing", empty)
    with pytest.raises(UserError, match="split train of nothing has no images; correct data.dir"):
        pipeline.open_source(config.DataConfig(name="nothing"), "train")
