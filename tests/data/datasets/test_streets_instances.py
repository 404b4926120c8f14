import numpy as np
import pytest

from ccnet_jax.common.errors import UserError
from ccnet_jax.data.datasets.streets import CLASSES as LABELS
from ccnet_jax.data.datasets.streets import Streets
from ccnet_jax.data.datasets.streets_instances import CLASSES, SMALLEST, StreetsInstances
from ccnet_jax.data.instances import InstanceSource

VAL = StreetsInstances("val")
SCENES = range(20)


def test_interface_of_a_data_set():
    assert isinstance(VAL, InstanceSource)
    assert len(VAL) == len(Streets("val"))
    assert VAL.name(3) == "val-00003"
    assert VAL.palette.shape == (len(CLASSES), 3)
    with pytest.raises(UserError, match="streets has the splits train, val, test"):
        StreetsInstances("night")


def test_objects_are_the_pixels_of_their_classes():
    """Every pixel of a class of objects belongs to one object, and no object has other pixels."""
    for index in SCENES:
        scene, objects = Streets("val")[index], VAL.objects(index)
        np.testing.assert_array_equal(VAL[index]["image"], scene["image"])
        assert VAL.size(index) == scene["label"].shape
        covered = np.zeros(scene["label"].shape, int)
        for box, number, mask, area in zip(
            objects.boxes.astype(int), objects.classes, objects.masks, objects.areas, strict=True
        ):
            assert (scene["label"][mask == 1] == LABELS.index(CLASSES[number])).all()
            inside = mask[box[1] : box[3], box[0] : box[2]]
            assert inside.sum() == mask.sum() == area >= SMALLEST
            assert inside[0].any()
            assert inside[:, 0].any()
            assert inside[-1].any()
            assert inside[:, -1].any()
            covered += mask
        of_objects = np.isin(scene["label"], [LABELS.index(name) for name in CLASSES])
        assert covered.max() == 1
        assert (of_objects & (covered == 0)).sum() < 2 * SMALLEST
        assert not (covered.astype(bool) & ~of_objects).any()


def test_scenes_have_several_objects_of_every_kind():
    found = [VAL.objects(index) for index in SCENES]
    counts = np.sum([np.bincount(objects.classes, minlength=len(CLASSES)) for objects in found], 0)
    assert (counts > 0).all()
    for objects in found:
        names = [CLASSES[number] for number in objects.classes]
        assert sum(name.endswith("signal") for name in names) == 1
        assert sum(name.endswith("vehicle") for name in names) >= 1
        assert not objects.crowd.any()
        # the signal says what all vehicles do
        assert ("red signal" in names) == ("waiting vehicle" in names)
    assert any(sum(name == "person" for name in map(CLASSES.__getitem__, x.classes)) > 2 for x in found)
