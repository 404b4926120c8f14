import json

import cv2
import jax.numpy as jnp
import numpy as np
import pytest

from ccnet_jax.common.errors import UserError
from ccnet_jax.data.config import DataConfig
from ccnet_jax.data.instances import Objects
from ccnet_jax.evaluation.evaluate_instances import DETECTIONS, evaluate_instances, in_image
from ccnet_jax.models.detection.mask_rcnn import Detections

DATA = DataConfig(resize=(120, 80))
PLACES = 4


class Rectangles:
    """An `InstanceSource` of rectangles, whose first pixel tells the image: three landscape, two portrait."""

    classes = ("wide", "tall")
    palette = np.array([[200, 0, 0], [0, 200, 0]], np.uint8)
    class_ids = (3, 8)
    sizes = ((40, 60), (60, 40), (40, 60), (40, 60), (60, 40))

    def __len__(self):
        return len(self.sizes)

    def __getitem__(self, index):
        return {"image": np.full((*self.sizes[index], 3), 10 * index, np.uint8)}

    def name(self, index):
        return f"image{index}"

    def image_id(self, index):
        return 50 + index

    def size(self, index):
        return self.sizes[index]

    def count(self, index):
        return len(self.boxes(index))

    def boxes(self, index):
        return [(2, 4, 30, 14), (10 + index, 20, 16 + index, 38)][: 2 if index != 3 else 0]

    def objects(self, index):
        boxes = np.array(self.boxes(index), np.float32).reshape(-1, 4)
        masks = [np.zeros(self.sizes[index], np.uint8) for _ in boxes]
        for mask, (x0, y0, x1, y1) in zip(masks, self.boxes(index), strict=True):
            mask[y0:y1, x0:x1] = 1
        areas = np.array([mask.sum() for mask in masks], np.float32)
        return Objects(boxes, np.arange(len(boxes), dtype=np.int32), masks, np.zeros(len(boxes), bool), areas)


SOURCE = Rectangles()


def perfect(variables, images, size):
    """Every object of the images, at the size at which they are seen: twice their own."""
    assert images.shape[1:3] in {(96, 128), (128, 96)}
    boxes, classes, used = [], [], []
    for image, seen in zip(np.asarray(images), np.asarray(size), strict=True):
        index = image[0, 0, 0] // 10
        assert tuple(seen) == tuple(2 * side for side in SOURCE.size(index))
        objects = SOURCE.objects(index)
        missing = PLACES - len(objects.boxes)
        boxes.append(np.pad(2 * objects.boxes, ((0, missing), (0, 0))))
        classes.append(np.pad(objects.classes, (0, missing)))
        used.append(np.arange(PLACES) < len(objects.boxes))
    batch = len(images)
    return Detections(
        jnp.array(boxes),
        jnp.array(classes),
        jnp.full((batch, PLACES), 0.9),
        jnp.array(used),
        jnp.ones((batch, PLACES, 28, 28)),
    )


def imperfect(variables, images, size):
    """`perfect` but for the boxes of tall objects, which are shifted the more, the later the image."""
    found = perfect(variables, images, size)
    shift = jnp.asarray(np.asarray(images)[:, :1, 0, 0] // 10, jnp.float32) * found.classes
    return found._replace(boxes=found.boxes.at[..., 1::2].add(2 * shift[..., None]))


def test_perfect_detections_have_perfect_scores(tmp_path):
    results = tmp_path / DETECTIONS
    scores = evaluate_instances(perfect, {}, SOURCE, DATA, 2, drawings=tmp_path / "images", labels=tmp_path)
    assert scores["box"]["AP"] == scores["mask"]["AP"] == pytest.approx(1)
    assert scores["images"] == 5
    assert scores["images_per_second"] > 0
    written = json.loads(results.read_text())
    assert [x["image_id"] for x in written] == [50, 50, 51, 51, 52, 52, 54, 54]
    assert written[1]["category_id"] == 8
    assert written[1]["bbox"] == [10, 20, 6, 18]
    drawn = sorted((tmp_path / "images").iterdir())
    assert [path.name for path in drawn] == [f"image{i}.png" for i in range(5)]
    assert cv2.imread(str(drawn[0])).shape[1] >= 720  # truth and prediction


def test_the_first_images_alone_can_be_tested():
    def blind(variables, images, size):
        found = perfect(variables, images, size)
        return found._replace(used=jnp.zeros_like(found.used))

    assert evaluate_instances(perfect, {}, SOURCE, DATA, 2, limit=3)["images"] == 3
    assert evaluate_instances(blind, {}, SOURCE, DATA, 2)["box"]["AP"] == 0

    def ill(variables, images, size):
        found = perfect(variables, images, size)
        return found._replace(scores=jnp.full_like(found.scores, jnp.nan))

    with pytest.raises(UserError, match="output for image image. is not finite: its weights are corrupt"):
        evaluate_instances(ill, {}, SOURCE, DATA, 2)


def test_detections_are_taken_back_to_the_images_pixels():
    one = Detections(
        np.array([[10, 20, 40, 60], [0, 0, 0, 0]], np.float32),
        np.array([1, 0], np.int32),
        np.array([0.5, 0], np.float32),
        np.array([True, False]),
        np.ones((2, 28, 28), np.float32),
    )
    found = in_image(one, np.array([80, 120]), (40, 30))  # seen at twice the height and four times the width
    np.testing.assert_allclose(found["boxes"], [[2.5, 10, 10, 30]])
    assert found["masks"][0]["size"] == [40, 30]
    assert len(found["classes"]) == len(found["scores"]) == 1
