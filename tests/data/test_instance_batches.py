import dataclasses
import pickle

import numpy as np
import pytest

from ccnet_jax.common.errors import UserError
from ccnet_jax.data.config import DataConfig
from ccnet_jax.data.datasets.streets_instances import StreetsInstances
from ccnet_jax.data.images import UnusableImage
from ccnet_jax.data.instance_batches import (
    Order,
    batch_names,
    canvas_of,
    canvases,
    evaluation_batches,
    sample,
    train_batches,
)
from ccnet_jax.data.instances import Objects

COCO = DataConfig(resize=(1333, 800))
PLAIN = DataConfig()


def test_canvases_are_the_box_in_landscape_and_portrait():
    landscape, portrait = (800, 1344), (1344, 800)
    assert canvases(COCO, [(480, 640), (640, 427), (500, 500)]) == [landscape, portrait]
    assert canvases(COCO, [(480, 640)]) == [landscape]
    assert canvases(COCO, [(640, 480)]) == [portrait]
    assert canvases(PLAIN, [(50, 70), (96, 33)]) == [(96, 96)]
    assert canvas_of((480, 640), COCO, [landscape, portrait]) == 0
    assert canvas_of((640, 480), COCO, [landscape, portrait]) == 1
    assert canvas_of((500, 500), COCO, [landscape, portrait]) == 0
    with pytest.raises(UserError, match="an image of 97x40 pixels is larger than those that training began"):
        canvas_of((40, 97), PLAIN, [(96, 96)])


CANVAS = np.array([0] * 7 + [1] * 3 + [0] * 4)


def test_batches_have_one_canvas_and_an_epoch_every_image():
    order = Order(CANVAS, 4, seed=1)
    assert len(order) == 16  # three batches of eleven images and one of three
    epochs = [[order(place) for place in range(16 * n, 16 * (n + 1))] for n in (0, 1)]
    for epoch in epochs:
        assert set(epoch) == set(range(14))
        for batch in np.reshape(epoch, (4, 4)):
            assert len(set(CANVAS[batch])) == 1
    assert epochs[0] != epochs[1]
    assert [order(place) for place in range(16)] == epochs[0]
    assert [Order(CANVAS, 4, seed=2)(place) for place in range(16)] != epochs[0]


def test_the_order_reaches_another_process():
    order = Order(CANVAS, 4, seed=1)
    again = pickle.loads(pickle.dumps(order))
    assert [again(place) for place in range(40)] == [order(place) for place in range(40)]


class Images:
    """An `InstanceSource` of one object each, whose pixel tells the image: landscape and portrait ones."""

    classes = ("thing",)
    palette = np.zeros((1, 3), np.uint8)
    class_ids = (1,)
    sizes = ((40, 60), (60, 40), (40, 60), (40, 60), (60, 40))

    def __len__(self):
        return len(self.sizes)

    def __getitem__(self, index):
        return {"image": np.full((*self.sizes[index], 3), 10 * index, np.uint8)}

    def name(self, index):
        return str(index)

    def image_id(self, index):
        return 100 + index

    def size(self, index):
        return self.sizes[index]

    def count(self, index):
        return 0 if index == 3 else 3

    def objects(self, index):
        mask = np.zeros(self.sizes[index], np.uint8)
        mask[10:20, 5:15] = 1
        mask[10:20, 5:10] = index != 0
        boxes = np.array([[5, 10, 15, 20], [0, 0, 4, 4], [20, 20, 40, 40]], np.float32)
        areas = np.array([100, 16, 400], np.float32)
        return Objects(boxes, np.zeros(3, np.int32), [mask] * 3, np.array([False, False, True]), areas)


RESIZED = DataConfig(resize=(120, 80))


def made(index, objects=4, **changes):
    data = dataclasses.replace(RESIZED, **changes)
    choices = canvases(data, Images.sizes)
    return sample(index, np.random.default_rng(0), Images(), choices, data, objects)


def test_a_sample_is_resized_on_its_canvas():
    found = made(1)
    assert found["image"].shape == (128, 96, 3)
    np.testing.assert_array_equal(found["size"], [120, 80])
    np.testing.assert_array_equal(np.unique(found["image"][:120, :80]), [10])
    np.testing.assert_array_equal(np.unique(found["image"][120:]), [104, 117, 123])
    np.testing.assert_array_equal(found["boxes"], [[10, 20, 30, 40], [0, 0, 8, 8], [0] * 4, [0] * 4])
    np.testing.assert_array_equal(found["used"], [True, True, False, False])  # without the crowd
    assert found["masks"].shape == (4, 56, 56)
    assert found["masks"][0].min() == 255
    assert not found["masks"][1:].any()


def test_of_too_many_objects_the_largest_stay():
    found = made(1, objects=1)
    np.testing.assert_array_equal(found["boxes"], [[10, 20, 30, 40]])


def test_mirrored_images_have_mirrored_objects():
    seen = set()
    for seed in range(8):
        data = dataclasses.replace(RESIZED, flip=True)
        choices = canvases(data, Images.sizes)
        found = sample(0, np.random.default_rng(seed), Images(), choices, data, 2)
        x0, _, x1, _ = found["boxes"][0]
        left, right = found["masks"][0][:, :28].mean(), found["masks"][0][:, 28:].mean()
        assert (x0, x1, left, right) in {(10, 30, 0, 255), (90, 110, 255, 0)}
        seen.add(x0)
    assert seen == {10, 90}


def test_training_goes_on_anywhere_and_may_be_split():
    def batches(start, process=0, processes=1):
        stream = train_batches(
            Images(), RESIZED, 3, 2, seed=0, start=start, process=process, processes=processes
        )
        return [next(stream)["image"] for _ in range(4)]

    whole = batches(0)
    for one, other in zip(whole[2:], batches(2), strict=False):
        np.testing.assert_array_equal(one, other)
    for process in (0, 1):
        for one, other in zip(whole, batches(0, process, 2), strict=True):
            np.testing.assert_array_equal(one[process : process + 1], other)
    shown = {int(image[0, 0, 0]) for batch in whole for image in batch}
    assert shown == {0, 10, 20, 40}  # image 3 has no object


def test_the_images_of_a_batch_are_named_and_replaced_by_those_of_their_canvas(capsys):
    class Spoilt(Images):
        def __getitem__(self, index):
            if index in (1, 2):
                raise UnusableImage(f"image {index} is corrupt")
            return super().__getitem__(index)

    def names(step):
        return batch_names(Spoilt(), RESIZED, 2, 0, step)

    def shown(source, data):
        stream = train_batches(source, data, 3, 2, seed=0)
        found = [[str(image[0, 0, 0] // 10) for image in next(stream)["image"]] for _ in range(12)]
        return found, stream

    assert shown(Images(), RESIZED)[0] == [names(step) for step in range(1, 13)]
    place = [name for step in range(1, 13) for name in names(step)]
    whole = {"0": "0", "2": "0", "1": "4", "4": "4"}  # of each canvas; image 3 has no object
    expected = [whole[name] for name in place]
    found, stream = shown(Spoilt(), dataclasses.replace(RESIZED, skip_corrupt=2))
    assert [name for batch in found for name in batch] == expected
    assert capsys.readouterr().err.count("is corrupt. Others take its place") == 2
    assert stream.read(12) == {"replaced_images": sum(name in "12" for name in place)}
    with pytest.raises(UnusableImage, match="^image . is corrupt"):
        shown(Spoilt(), RESIZED)


@pytest.mark.parametrize("processes", [1, 2])
def test_every_image_is_tested_once(processes):
    seen = []
    for process in range(processes):
        for batch in evaluation_batches(Images(), RESIZED, 5, 2, process, processes):
            assert batch["image"].shape[0] == len(batch["size"]) == len(batch["index"]) == 2
            for image, index in zip(batch["image"], batch["index"], strict=True):
                if index >= 0:
                    assert image[0, 0, 0] == 10 * index
                    seen.append(int(index))
    assert sorted(seen) == [0, 1, 2, 3, 4]


def test_streets_make_batches_by_workers():
    data = DataConfig(flip=True, distort=True, workers=1)
    one, two = (
        train_batches(StreetsInstances("val"), dataclasses.replace(data, workers=n), 12, 4, seed=3)
        for n in (0, 1)
    )
    for _ in range(2):
        here, there = next(one), next(two)
        assert set(here) == set(there) == {"image", "size", "boxes", "classes", "used", "masks"}
        for key in here:
            np.testing.assert_array_equal(here[key], there[key])
    assert here["image"].shape == (4, 96, 192, 3)
    assert here["used"].any(1).all()
    two.close()
