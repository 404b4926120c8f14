import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ccnet_jax.data.instances import Objects
from ccnet_jax.evaluation import instance_scores as scores_module
from ccnet_jax.evaluation.instance_scores import instance_scores, paste_mask, result_list, runs_of

SIZE = (120, 160)


def rectangle(x0, y0, x1, y1):
    mask = np.zeros(SIZE, np.uint8)
    mask[y0:y1, x0:x1] = 1
    return mask


class Images:
    """An `InstanceSource` of rectangles; image 1 has a crowd, image 2 nothing."""

    classes = ("ball", "box", "never")
    palette = np.zeros((3, 3), np.uint8)
    class_ids = (4, 7, 9)
    rectangles = (
        [((10, 10, 30, 30), 0, False), ((50, 20, 110, 100), 1, False)],
        [((0, 0, 60, 60), 0, True), ((100, 10, 130, 50), 0, False)],
        [],
    )

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return {"image": np.zeros((*SIZE, 3), np.uint8)}

    def name(self, index):
        return str(index)

    def image_id(self, index):
        return 100 + index

    def size(self, index):
        return SIZE

    def count(self, index):
        return len(self.rectangles[index])

    def objects(self, index):
        boxes, classes, crowd = zip(*self.rectangles[index], strict=True) if index < 2 else ((), (), ())
        masks = [rectangle(*box) for box in boxes]
        areas = np.array([mask.sum() for mask in masks], np.float32)
        boxes = np.array(boxes, np.float32).reshape(-1, 4)
        return Objects(boxes, np.array(classes, np.int32), masks, np.array(crowd, bool), areas)


def found(*detections):
    """(box, class, score) of each detection; its mask is the box."""
    boxes, classes, scores = zip(*detections, strict=True) if detections else ((), (), ())
    return {
        "boxes": np.array(boxes, np.float32).reshape(-1, 4),
        "classes": np.array(classes, np.int32),
        "scores": np.array(scores, np.float32),
        "masks": [runs_of(rectangle(*box)) for box in boxes],
    }


PERFECT = {
    0: found(((10, 10, 30, 30), 0, 0.9), ((50, 20, 110, 100), 1, 0.8)),
    1: found(((100, 10, 130, 50), 0, 0.7)),
    2: found(),
}


@pytest.mark.parametrize("kind", ["box", "mask"])
def test_what_is_there_is_found(kind):
    scores = instance_scores(Images(), PERFECT)[kind]
    assert scores["AP"] == scores["AP50"] == scores["AP75"] == pytest.approx(1)
    assert scores["classes"] == {"ball": pytest.approx(1), "box": pytest.approx(1), "never": None}
    assert scores["APs"] == scores["APm"] == pytest.approx(1)  # 400 pixels; 1200 and 4800 pixels
    assert scores["APl"] is None


def test_detections_in_a_crowd_count_neither_way():
    inside = found(((5, 5, 25, 25), 0, 0.95), ((100, 10, 130, 50), 0, 0.7))
    assert instance_scores(Images(), PERFECT | {1: inside})["box"]["AP"] == pytest.approx(1)
    outside = found(((70, 70, 90, 90), 0, 0.95), ((100, 10, 130, 50), 0, 0.7))
    assert instance_scores(Images(), PERFECT | {1: outside})["box"]["AP"] < 0.9


def test_boxes_and_masks_are_scored_apart():
    """A box of 0.75 overlap counts at six of ten thresholds."""
    half = found(((10, 10, 30, 30), 0, 0.9), ((50, 20, 110, 80), 1, 0.8))
    half["masks"][1] = runs_of(rectangle(50, 20, 110, 100))
    scores = instance_scores(Images(), PERFECT | {0: half})
    assert scores["mask"]["classes"]["box"] == pytest.approx(1)
    assert scores["box"]["classes"]["box"] == pytest.approx(0.6)  # 60 x 60 of 60 x 80: 0.75


def test_nothing_found_is_a_score_of_zero():
    scores = instance_scores(Images(), {0: found(), 1: found(), 2: found()})
    assert scores["box"]["AP"] == scores["mask"]["AP"] == 0


def test_every_detection_counts_that_the_setting_allows():
    """150 objects of a class, all found: pycocotools alone would count 100 of them."""
    source = Images()
    corners = [(x, y) for y in range(0, 120, 10) for x in range(0, 160, 10)][:150]
    source.rectangles = ([((x, y, x + 8, y + 8), 0, False) for x, y in corners], [], [])
    detections = [((x, y, x + 8, y + 8), 0, 1 - i / 1000) for i, (x, y) in enumerate(corners)]
    for kind in instance_scores(source, {0: found(*detections)}).values():
        assert kind["AP"] == kind["AP50"] == kind["APs"] == kind["classes"]["ball"] == pytest.approx(1)
    best = instance_scores(source, {0: found(*detections[:100])})["box"]["AP"]
    assert best == pytest.approx(2 / 3, abs=0.01)  # `detection.detections=100` finds two thirds


def test_the_numbers_are_pycocotools_own():
    """Of wrong, doubled, shifted and missing detections, to the last bit, as its `summarize` has them."""
    rng = np.random.default_rng(0)
    detected = {}
    for index, of_image in enumerate(Images.rectangles):
        boxes = [(box, label) for box, label, _ in of_image for _ in range(4)] + [((5, 5, 40, 40), 2)] * 3
        moved = [(np.clip(np.array(box) + rng.integers(-5, 6, 4), 0, 110), label) for box, label in boxes]
        detected[index] = found(*((tuple(box.tolist()), label, rng.random()) for box, label in moved))
    ours = instance_scores(Images(), detected)
    truth, results = COCO(), result_list(Images(), detected)
    truth.dataset = scores_module._truth(Images(), [0, 1, 2])
    truth.createIndex()
    for result in results:  # from the data set's own numbers to those of `_truth`
        result["image_id"] -= 100
        result["category_id"] = Images.class_ids.index(result["category_id"])
    for kind, name in (("box", "bbox"), ("mask", "segm")):
        evaluation = COCOeval(truth, truth.loadRes([dict(result) for result in results]), name)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        found_names = ("AP", "AP50", "AP75", "APs", "APm", "APl")
        theirs = [None if value < 0 else value for value in evaluation.stats[:6]]
        assert [ours[kind][name] for name in found_names] == theirs
        assert 0 < ours[kind]["AP"] < ours[kind]["AP50"] < 1


def test_only_the_images_that_were_tested_count():
    assert instance_scores(Images(), {1: PERFECT[1]})["box"]["classes"]["box"] is None


def test_a_mask_covers_its_box():
    full = np.ones((28, 28), np.float32)
    mask = paste_mask(full, np.array([20, 10, 76, 66], np.float32), SIZE)
    np.testing.assert_array_equal(mask, rectangle(20, 10, 76, 66))
    left = full.copy()
    left[:, 14:] = 0
    mask = paste_mask(left, np.array([20, 10, 76, 66], np.float32), SIZE)
    np.testing.assert_array_equal(mask, rectangle(20, 10, 48, 66))


@pytest.mark.parametrize(
    "box", [(-30, -20, 26, 36), (150, 100, 206, 156), (300, 300, 320, 320), (5, 5, 5, 5)]
)
def test_masks_are_cut_at_the_edges_of_the_image(box):
    mask = paste_mask(np.ones((28, 28), np.float32), np.array(box, np.float32), SIZE)
    assert mask.shape == SIZE
    x0, y0, x1, y1 = box
    wanted = max(min(x1, 160) - max(x0, 0), 0) * max(min(y1, 120) - max(y0, 0), 0)
    assert mask.sum() == wanted


def test_runs_are_the_mask():
    mask = rectangle(3, 4, 50, 60)
    runs = runs_of(mask)
    np.testing.assert_array_equal(coco_mask.decode(runs), mask)
    assert isinstance(runs["counts"], str)


def test_result_files_have_the_data_sets_own_numbers():
    results = result_list(Images(), PERFECT)
    assert [(x["image_id"], x["category_id"]) for x in results] == [(100, 4), (100, 7), (101, 4)]
    assert results[1]["bbox"] == [50, 20, 60, 80]
    assert results[1]["score"] == pytest.approx(0.8)
    np.testing.assert_array_equal(coco_mask.decode(results[1]["segmentation"]), rectangle(50, 20, 110, 100))
