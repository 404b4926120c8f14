"""A trained network that finds instances, as one object. `ccnet_jax.load` gives it for such a run.

model = ccnet_jax.load("runs/latest")
found = model.predict("street.jpg")        # of any size; .boxes, .classes, .scores, .masks, .overlay
raw = jax.jit(model)(images)               # uint8 RGB [B, H, W, 3], sides multiples of 32 -> Detections
"""

import os
import pathlib
from collections.abc import Callable
from typing import Any, ClassVar

import flax
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32, Int32, Num, UInt8

from ccnet_jax.common.errors import UserError, write_json
from ccnet_jax.data.config import DataConfig
from ccnet_jax.data.instance_batches import MULTIPLE, canvases, on_canvas, place_on_canvas
from ccnet_jax.data.user_images import image_name, read_image
from ccnet_jax.evaluation.detector import detect, detector
from ccnet_jax.evaluation.evaluate_instances import in_image
from ccnet_jax.evaluation.instance_scores import mask_of, runs_of
from ccnet_jax.evaluation.prediction import NotFinite
from ccnet_jax.figures import instance_overlay, save_image
from ccnet_jax.models.detection.config import DetectionConfig
from ccnet_jax.models.detection.mask_rcnn import Detections, MaskRCNN
from ccnet_jax.models.variables import Variables
from ccnet_jax.tasks.inputs import check_batch


class Instances(flax.struct.PyTreeNode):
    """The objects that a network finds in one image, the best one first.

    Attributes:
      boxes: float32 [n, 4] (x0, y0, x1, y1) in pixels.
      classes: int32 [n], indices of the classes.
      scores: float32 [n], 0 to 1.
      masks: uint8 [n, H, W], 1 where a pixel is the object's.
      overlay: uint8 [h, w, 3] RGB, the image with all of them, at the size of a figure's panel.
    """

    boxes: Float32[np.ndarray, "n 4"]
    classes: Int32[np.ndarray, " n"]
    scores: Float32[np.ndarray, " n"]
    masks: UInt8[np.ndarray, "n H W"]
    overlay: UInt8[np.ndarray, "h w 3"]

    def as_found(self) -> "Instances":
        """What the page keeps of it: all."""
        return self

    def describe(self, classes: int) -> tuple[dict[str, Any], list[np.ndarray]]:
        """Class, score and box (x0, y0, x1, y1) in pixels of each object, the best one first; `uppermost`."""
        rows = zip(self.classes.tolist(), self.scores.tolist(), self.boxes.tolist(), strict=True)
        objects = [{"class": label, "score": score, "box": box} for label, score, box in rows]
        return {"kind": "objects", "objects": objects}, [self.uppermost()]

    def uppermost(self) -> np.ndarray:
        """uint8 [H, W]: the number of the best object over each pixel, from 1, or 0; at most 255 count."""
        numbers = np.zeros(self.masks.shape[1:], np.uint8)
        for i in range(min(len(self.masks), 255) - 1, -1, -1):
            numbers[self.masks[i] == 1] = i + 1
        return numbers

    def label(self, name: str) -> np.ndarray:
        """Raise UserError: objects are no labels."""
        raise UserError(f"{name} {InstanceModel.does}, and labels no pixels")

    def overlay_on(self, pixels: np.ndarray, palette: np.ndarray, opacity: float) -> np.ndarray:
        """`overlay`."""
        return self.overlay


class InstanceModel(flax.struct.PyTreeNode, eq=False):
    """A network with its weights. It is a pytree whose leaves are the weights.

    Attributes:
      variables: {"params", "batch_stats"}.
      network: the Flax module.
      classes: names of the classes.
      colours: (red, green, blue) of each class.
      data: `config.data`: `resize`.
      detection: `config.detection`: how many proposals and detections.
    """

    variables: Variables
    network: MaskRCNN = flax.struct.field(pytree_node=False)
    classes: tuple[str, ...] = flax.struct.field(pytree_node=False)
    colours: tuple[tuple[int, int, int], ...] = flax.struct.field(pytree_node=False)
    data: DataConfig = flax.struct.field(pytree_node=False, default=DataConfig())
    detection: DetectionConfig = flax.struct.field(pytree_node=False, default=DetectionConfig())
    labels_pixels: ClassVar[bool] = False
    does: ClassVar[str] = "finds instances"
    written: ClassVar[str] = "objects of {}"
    loops: ClassVar[None] = None

    @property
    def palette(self) -> np.ndarray:
        """The classes' colours, uint8 [classes, 3] RGB."""
        return np.array(self.colours, np.uint8)

    def __call__(
        self, images: Num[jax.Array | np.ndarray, "B H W 3"], size: jax.Array | np.ndarray | None = None
    ) -> Detections:
        """The network's detections in a batch of images, as arrays of fixed size.

        Args:
          images: RGB, values from 0 to 255, whose sides are multiples of 32.
          size: int [B, 2], (height, width) of each image, where images are smaller than the array.

        Raises:
          UserError: the images have another shape or dtype, or floating values that are not 0 to 255;
            or `size` has another shape, or is larger than the array.
        """
        check_batch(images)
        if images.shape[1] % MULTIPLE or images.shape[2] % MULTIPLE:
            raise UserError(
                f"images are {images.shape[1]}x{images.shape[2]}, and their sides must be multiples of "
                f"{MULTIPLE}; pad them below and on the right, and pass their own `size`"
            )
        if size is not None:
            _check_size(images, size)
            size = jnp.asarray(size)
        return detect(self.network, self.detection, self.variables, jnp.asarray(images), size)

    def predict(self, image: str | os.PathLike | np.ndarray | jax.Array) -> Instances:
        """The objects in one image, which is resized as in training.

        Args:
          image: a file's path, in which "~" is the user's home, or uint8 [H, W, 3] RGB of any size.

        Raises:
          UserError: the file cannot be read, the array is not such an image, or the network's output is not
            finite.
        """
        pixels = read_image(image)
        height, width = pixels.shape[:2]
        choices = canvases(self.data, [(height, width)])
        resized, size, canvas = on_canvas(pixels, choices, self.data)
        where = jax.tree.leaves(self.variables)[0].sharding
        images, sizes = jax.device_put(
            (place_on_canvas(resized, canvas)[None], np.array([size], np.int32)), where
        )
        compiled = detector(self.network, self.detection)
        detections = jax.device_get(compiled(self.variables, images, sizes))
        if not np.isfinite(detections.scores).all():
            raise NotFinite(image_name(image))
        found = in_image(Detections(*(x[0] for x in detections)), np.array(size), (height, width))
        masks = np.array([mask_of(runs) for runs in found["masks"]], np.uint8).reshape(-1, height, width)
        parts = found["boxes"], found["classes"], masks, self.classes, self.palette, found["scores"]
        overlay = instance_overlay(pixels, *parts)
        return Instances(found["boxes"], found["classes"], found["scores"], masks, overlay)

    def writer(
        self, run: object, ms_flip: bool, point: tuple[int, int] | None, loops: tuple[int, ...]
    ) -> Callable[[np.ndarray, pathlib.Path], None]:
        """What writes NAME-overlay.png and NAME.json; see `TrainedModel.writer`."""
        if ms_flip or point or loops:
            raise UserError(f"the network in {run} {self.does}: omit --ms-flip, --attention and --loops")
        return self._write_results

    def _write_results(self, image: np.ndarray, stem: pathlib.Path) -> None:
        found = self.predict(image)
        save_image(stem.with_name(f"{stem.name}-overlay.png"), found.overlay)
        rows = zip(found.classes, found.scores.tolist(), found.boxes.tolist(), found.masks, strict=True)
        objects = [
            {"class": self.classes[label], "score": score, "box": box, "mask": runs_of(mask)}
            for label, score, box, mask in rows
        ]
        write_json(stem.with_name(f"{stem.name}.json"), objects)


def _check_size(images: jax.Array | np.ndarray, size: jax.Array | np.ndarray) -> None:
    """Raise UserError where `size` is not that of images in the images; traced values are not looked at."""
    shape, wanted = np.shape(size), (len(images), 2)
    if shape != wanted:
        raise UserError(
            f"size is {list(shape)}, and must be {list(wanted)}: the height and width of each image; "
            "correct it"
        )
    if isinstance(size, jax.core.Tracer):
        return
    for number, (height, width) in enumerate(np.asarray(size).tolist()):
        if not (1 <= height <= images.shape[1] and 1 <= width <= images.shape[2]):
            raise UserError(
                f"size says that image {number} has {height} rows and {width} columns, and images are "
                f"{images.shape[1]}x{images.shape[2]}; give the part of the array that is the image"
            )
