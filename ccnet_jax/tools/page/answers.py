"""What the page answers: images, predictions and attention as bytes and JSON. Knows nothing of HTTP.

Predictions go to the browser as planes of uint8, four a pixel, and not as numbers in JSON: two classes with
their probabilities. `pack` puts a description in JSON before them.
"""

import base64
import contextlib
import dataclasses
import json
import struct
import time
from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import jax
import numpy as np

from ccnet_jax import figures
from ccnet_jax.common.errors import UserError
from ccnet_jax.tasks.task import Found
from ccnet_jax.tools.page.networks import Network, Programs, Way
from ccnet_jax.tools.page.own_images import OwnImages
from ccnet_jax.tools.page.uploads import SIGNATURES, Gone, Limits, Store, Upload, read_upload

_THUMBNAIL = 240  # pixels of the longer side


@dataclasses.dataclass(frozen=True)
class Question:
    """What a browser asks about.

    Attributes:
      image: key of an image that was added.
      run: number of the network.
      way: how it is run.
    """

    image: str
    run: int
    way: Way


class Explorer:
    """Networks and images, and the answers about them. Predictions are for one thread at a time.

    Args:
      networks: one, or two to compare.
      own: the images of the first network's data set.
      limits: of images that are sent.
    """

    def __init__(self, networks: Sequence[Network], own: OwnImages, limits: Limits):
        self.networks, self.own, self.limits = list(networks), own, limits
        self._images: Store[Upload] = Store("this image")
        self._predictions: Store[tuple[Found, dict[str, Any]]] = Store("this prediction")
        self._programs = Programs()

    def describe(self) -> dict[str, Any]:
        """What the page must know at its start, for JSON."""
        scale = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_INFERNO)
        return {
            "runs": [network.describe() for network in self.networks],
            "own": self.own.names,
            "own_missing": self.own.missing,
            "limits": dataclasses.asdict(self.limits),
            "kinds": list(SIGNATURES),
            "scale": base64.b64encode(scale[:, 0, ::-1].tobytes()).decode(),  # RGB of 0 to 255
        }

    # ---------------------------------------------------------------- images
    def add(self, data: bytes) -> dict[str, Any]:
        """Keep the image in a file's bytes. Raises UserError where it is none, or too large."""
        return self._keep_image(read_upload(data, self.limits))

    def add_own(self, index: int) -> dict[str, Any]:
        """Keep one of the run's own images. Raises UserError where there is no such, or it is corrupt."""
        return self._keep_image(Upload.of(self.own.pixels(index), self.limits.side))

    def _keep_image(self, image: Upload) -> dict[str, Any]:
        height, width = image.pixels.shape[:2]
        own_height, own_width = image.own_size
        return {
            "image": self._images.put(image),
            "height": height,
            "width": width,
            "own_height": own_height,
            "own_width": own_width,
        }

    def image_png(self, key: str) -> bytes:
        """An image that was added, as the network sees it. Raises Gone."""
        return figures.image_png(self._images.get(key).pixels)

    def thumbnail_png(self, index: int) -> bytes:
        """One of the run's own images, small. Raises UserError as `add_own` does."""
        return figures.image_png(Upload.of(self.own.pixels(index), _THUMBNAIL).pixels)

    # ------------------------------------------------------------- predictions
    def prediction(self, question: Question) -> bytes:
        """A description and planes uint8 [H, W], see `pack`.

        Of a network that labels pixels the planes are the most probable class, its probability (255 is 1),
        the second class and its probability. Of one that finds instances there is one plane: the number of
        the uppermost object, from 1; 0 where there is none.

        Raises:
          UserError: the image is gone, or the network cannot be run so.
        """
        found, took = self._found(question)
        head, planes = found.describe(len(self._network(question).model.classes))
        height, width = planes[0].shape
        return pack(head | took | {"height": height, "width": width}, planes)

    def label_png(self, question: Question) -> bytes:
        """The label as a palette PNG, as `predict` writes it, at the size of the image's own file.

        Raises UserError where the network gives none.
        """
        found, _ = self._found(question)
        network = self._network(question)
        label = figures.resized_label(found.label(network.name), self._images.get(question.image).own_size)
        return figures.labels_png(label, network.model.palette, network.model.numbers)

    def overlay_png(self, question: Question, opacity: float) -> bytes:
        """The image under the classes' colours, or with its objects. Raises UserError."""
        found, _ = self._found(question)
        pixels = self._images.get(question.image).pixels
        palette = self._network(question).model.palette
        return figures.image_png(found.overlay_on(pixels, palette, opacity))

    def attention(self, question: Question, point: tuple[int, int]) -> bytes:
        """What a pixel attends to: one plane [h, w] a loop, 255 sqrt(weight / largest), see `pack`.

        The root makes weights visible that are a hundredth of the largest, as in the paper's figures here.
        Raises UserError where the network has no loops, or the point is no pixel.
        """
        image, network = self._images.get(question.image), self._network(question)
        self._programs.about_to_run(("attention", question.run, question.way.loops, image.pixels.shape), 1)
        with _memory_told():
            maps = network.attention(question.image, image, question.way, point)
        largest = maps.max((1, 2))
        planes = np.round(255 * np.sqrt(maps / np.maximum(largest, 1e-12)[:, None, None])).astype(np.uint8)
        head = {"height": maps.shape[1], "width": maps.shape[2], "largest": largest.tolist()}
        return pack(head, list(planes))

    def _network(self, question: Question) -> Network:
        if not 0 <= question.run < len(self.networks):
            raise Gone(f"there is no run number {question.run} here; reload the page")
        return self.networks[question.run]

    def _found(self, question: Question) -> tuple[Found, dict[str, Any]]:
        """What the network finds, and how long that took, for JSON. The last answers are kept."""
        image, network = self._images.get(question.image), self._network(question)
        known = self._predictions.find(question)
        if known is not None:
            return known
        network.check(question.way)
        key = "prediction", question.run, question.way, image.pixels.shape
        compiled = self._programs.about_to_run(key, network.sizes(question.way))
        start = time.monotonic()
        with _memory_told():
            found = network.run(image, question.way)
        seconds = time.monotonic() - start
        answer = found.as_found(), {"seconds": round(seconds, 2 if seconds < 10 else 0), "compiled": compiled}
        self._predictions.put(answer, question)
        return answer


def pack(head: dict[str, Any], planes: Sequence[np.ndarray]) -> bytes:
    """The length of `head` as JSON (4 bytes, the lowest first), `head`, and the planes uint8, row by row."""
    text = json.dumps(head).encode()
    return b"".join([struct.pack("<I", len(text)), text, *(plane.tobytes() for plane in planes)])


@contextlib.contextmanager
def _memory_told() -> Iterator[None]:
    """Inside, memory that is used up becomes a UserError."""
    try:
        yield
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
            raise UserError(
                "the network needs more memory for this image than there is; send a smaller one, or start "
                "the program with a smaller --side"
            ) from None
        raise
