"""The scenes of `streets` as instances: each vehicle, person and signal is an object.

Whether a vehicle waits or moves is said by the signal on the other side of the image alone: see
`ccnet_jax/data/datasets/streets.py`.
"""

import numpy as np

from ccnet_jax.common.labels import Classes
from ccnet_jax.data.datasets import streets
from ccnet_jax.data.instances import Objects
from ccnet_jax.data.sources import DataSet, Location

CLASSES = ("person", "red signal", "green signal", "moving vehicle", "waiting vehicle")
CONTEXT_CLASSES = ("moving vehicle", "waiting vehicle")
SMALLEST = 12  # pixels that can be seen of an object; those with fewer are left out
_NUMBERS = [streets.CLASSES.index(name) for name in CLASSES]  # of the classes in `streets`


class StreetsInstances:
    """An `InstanceSource` of the scenes of a split of `streets`.

    Raises UserError where there is no such split.
    """

    classes = CLASSES
    palette = streets.PALETTE[_NUMBERS]
    class_ids = tuple(range(len(CLASSES)))

    def __init__(self, split: str):
        self._scenes = streets.Streets(split)

    def __len__(self) -> int:
        return len(self._scenes)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return {"image": self._scenes[index]["image"]}

    def name(self, index: int) -> str:
        """The split and the scene's number, as `val-00003`."""
        return self._scenes.name(index)

    def image_id(self, index: int) -> int:
        """The scene's number."""
        return index

    def size(self, index: int) -> tuple[int, int]:
        """(height, width) of every scene."""
        return streets.HEIGHT, streets.WIDTH

    def count(self, index: int) -> None:
        """The scene would have to be drawn; there is at least the signal."""

    def objects(self, index: int) -> Objects:
        """The objects of scene `index`: those parts of them that nothing hides."""
        _, label, numbers = streets.draw_objects(self._scenes.random(index))
        boxes, classes, masks = [], [], []
        for number in range(1, int(numbers.max()) + 1):
            mask = numbers == number
            if mask.sum() < SMALLEST:
                continue
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            boxes.append((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
            classes.append(_NUMBERS.index(label[mask][0]))
            masks.append(mask.astype(np.uint8))
        return Objects(
            np.array(boxes, np.float32).reshape(-1, 4),
            np.array(classes, np.int32),
            masks,
            np.zeros(len(masks), bool),
            np.array([mask.sum() for mask in masks], np.float32),
        )


def open_split(location: Location, split: str) -> StreetsInstances:
    """The scenes of `split`; there is no folder to read. Raises UserError where there is no such split."""
    return StreetsInstances(split)


DATA_SET = DataSet(
    Classes(CLASSES, StreetsInstances.palette),
    tuple(streets.SPLITS),
    open_split,
    None,
    __doc__,
    size=(streets.HEIGHT, streets.WIDTH),
    task="instance",
)
