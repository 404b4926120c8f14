import itertools

import ml_collections
import numpy as np
import pytest

from ccnet_jax.data import pipeline
from ccnet_jax.data.datasets.streets import Streets
from ccnet_jax.errors import UserError


class Numbered:
    """Ten pictures of different sizes; every pixel of picture i is i."""

    classes = tuple("abcdefghij")
    palette = np.zeros((10, 3), np.uint8)

    def __len__(self):
        return 10

    def __getitem__(self, i):
        size = (6 + i % 3, 9)
        return {"image": np.full((*size, 3), i, np.uint8), "label": np.full(size, i, np.uint8)}

    def name(self, i):
        return str(i)


def settings(**changes):
    values = {"fit": None, "scale": None, "short_sides": None, "crop": None, "cat_max_ratio": 1.0}
    values |= {"flip": True, "distort": True, "workers": 0}
    return ml_collections.ConfigDict(values | changes)


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


@pytest.mark.parametrize("workers", [1, 4])
def test_worker_processes_make_the_same_batches(workers):
    source, data = Numbered(), {"crop": (32, 32), "scale": (0.5, 8.0), "cat_max_ratio": 0.75}
    threads = first(pipeline.train_batches(source, settings(**data), 4, seed=1, start=2), 6)
    processes = first(
        pipeline.train_batches(source, settings(**data, workers=workers), 4, seed=1, start=2), 6
    )
    assert_same(threads, processes)


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_every_batch_between_them(processes):
    source, data = Numbered(), settings(crop=(32, 32), scale=(0.5, 8.0))
    whole = first(pipeline.train_batches(source, data, 4, seed=1), 6)
    parts = [
        first(pipeline.train_batches(source, data, 4, seed=1, process=p, processes=processes), 6)
        for p in range(processes)
    ]
    for batch, *shares in zip(whole, *parts, strict=True):
        for key in batch:
            np.testing.assert_array_equal(np.concatenate([share[key] for share in shares]), batch[key])


def test_pictures_of_different_sizes_need_a_crop():
    with pytest.raises(UserError, match="pictures of 9x6 and 9x7 pixels cannot be one batch.*data.crop"):
        first(pipeline.train_batches(Numbered(), settings(), 4, seed=1), 3)


def test_an_error_in_a_worker_process_reaches_the_user_as_one_sentence():
    class Spoilt(Numbered):
        def __getitem__(self, i):
            raise UserError(f"picture {i} is damaged")

    with pytest.raises(Exception, match="picture . is damaged") as error:
        first(pipeline.train_batches(Spoilt(), settings(crop=(32, 32), workers=1), 2, seed=1), 1)
    cause = error.value
    while not isinstance(cause, UserError):
        cause = cause.__cause__ or cause.__context__
    assert str(cause).startswith("picture ")


def test_every_epoch_visits_each_picture_once_in_a_new_order():
    source, data = Numbered(), settings(crop=(8, 9), distort=False)
    batches = first(pipeline.train_batches(source, data, 5, seed=1), 6)
    order = [int(image[0, 0, 0]) for batch in batches for image in batch["image"]]
    epochs = [order[:10], order[10:20], order[20:]]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


@pytest.mark.parametrize("batch_size", [1, 2, 4])
@pytest.mark.parametrize("processes", [1, 2])
def test_evaluation_gives_every_picture_once_grouped_by_size(batch_size, processes):
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
                    assert label.shape == (6 + index % 3, 9)
    assert sorted(seen) == list(range(10))


def test_evaluation_of_the_first_pictures_only():
    batches = pipeline.evaluation_batches(Numbered(), 4, 2)
    assert sorted(int(i) for batch in batches for i in batch["index"] if i >= 0) == [0, 1, 2, 3]
