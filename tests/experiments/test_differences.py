import cv2
import numpy as np
import pytest

from ccnet_jax.common.errors import UserError
from ccnet_jax.evaluation.instance_scores import paste_mask
from experiments import differences


def test_the_tables_have_the_sizes():
    report = {
        "rounding": [{"ratio": 1.25, "changed": 0.00123, "rounded": 0.5, "float": 0.5123}],
        "pasting": [{"side": 24, "mean": 0.9, "lowest": 0.88}],
        "labels": {"images": 1, "differ": 0.05},
    }
    tables = differences.tables(report)
    assert tables["rounding"].splitlines()[-1] == "| 1.25 | 0.123 | 50.00 | 51.23 |"
    assert tables["pasting"].splitlines()[-1] == "| 24 | 0.900 | 0.880 |"
    assert tables["labels"].splitlines()[-1] == "| 1 | 5.00 |"
    assert "labels" not in differences.tables(report | {"labels": None})


def test_masks_are_pasted_as_torchvision_does():
    """Of `paste_masks_in_image` of torchvision 0.28.0: a mask of ones, a box between pixels."""
    arguments = np.ones((28, 28), np.float32), np.array([3.4, 2.6, 9.2, 7.7], np.float32), (12, 14)
    found, ours = differences.pasted_by_torchvision(*arguments), paste_mask(*arguments)
    np.testing.assert_array_equal(np.argwhere(found)[[0, -1]], [[2, 3], [7, 9]])
    assert ours.sum() < found.sum()


def test_two_label_images_that_contradict_each_other_are_counted(tmp_path):
    with pytest.raises(UserError, match="holds no NAME_labelIds.png"):
        differences.contradictions(tmp_path)
    ids, trained = np.array([[7, 8], [0, 33]], np.uint8), np.array([[0, 1], [255, 17]], np.uint8)
    cv2.imwrite(str(tmp_path / "a_gtFine_labelIds.png"), ids)
    cv2.imwrite(str(tmp_path / "a_gtFine_labelTrainIds.png"), trained)
    assert differences.contradictions(tmp_path) == {"images": 1, "differ": 0.25}
