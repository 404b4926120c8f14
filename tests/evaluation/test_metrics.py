import json

import numpy as np
import pytest

from ccnet_jax.evaluation.metrics import confusion_matrix, scores, table, without_nan


def images():
    rng = np.random.default_rng(0)
    for height, width in [(5, 7), (12, 3), (1, 1), (8, 8)]:
        label = rng.integers(0, 4, (height, width)).astype(np.uint8)
        label[rng.random(label.shape) < 0.3] = 255
        yield label, rng.integers(0, 4, (height, width)).astype(np.uint8)


def test_scores_equal_set_arithmetic_over_images_of_different_sizes():
    confusion = sum(confusion_matrix(label, predicted, 4) for label, predicted in images())
    label = np.concatenate([label.ravel() for label, _ in images()])
    predicted = np.concatenate([p.ravel() for _, p in images()])[label != 255]
    label = label[label != 255]
    result = scores(confusion)
    ious, accuracies = [], []
    for c in range(4):
        true, found = set(np.flatnonzero(label == c)), set(np.flatnonzero(predicted == c))
        ious.append(len(true & found) / len(true | found))
        accuracies.append(len(true & found) / len(true))
    np.testing.assert_allclose(result["IoU"], ious)
    np.testing.assert_allclose(result["mIoU"], np.mean(ious))
    np.testing.assert_allclose(result["mAcc"], np.mean(accuracies))
    np.testing.assert_allclose(result["pixel_accuracy"], (label == predicted).mean())
    assert confusion.sum() == len(label)


def test_counts_are_exact_beyond_32_bits():
    confusion = np.array([[2**40, 1], [3, 2**40]])
    assert scores(confusion)["IoU"][0] == 2**40 / (2**40 + 4)


def test_absent_classes_do_not_count():
    confusion = confusion_matrix(np.array([0, 0, 1]), np.array([0, 1, 1]), 3)
    result = scores(confusion)
    assert np.isnan(result["IoU"][2])
    assert result["mIoU"] == pytest.approx((1 / 2 + 1 / 2) / 2)
    assert "-" in table(result, ("road", "sky", "tree")).splitlines()[4]
    assert json.loads(json.dumps(without_nan(result), allow_nan=False))["IoU"][2] is None


def test_a_mean_over_nothing_is_absent():
    """No pixel is labelled; the network predicts classes all the same."""
    nothing = scores(confusion_matrix(np.full(5, 255), np.arange(5) % 3, 3))
    found = without_nan(nothing)
    assert found == {
        "mIoU": None,
        "mAcc": None,
        "pixel_accuracy": None,
        "IoU": [None] * 3,
        "accuracy": [None] * 3,
    }
    assert not any(letter.isdigit() for letter in table(nothing, ("road", "sky", "tree")))


def test_table_names_every_class_and_score():
    result = scores(np.array([[3, 1], [0, 4]]))
    text = table(result, ("road", "sky"))
    for words in ("road", "sky", " 75.00", " 80.00", "mIoU", " 77.50", "mAcc", " 87.50", "pixel accuracy"):
        assert words in text
