"""Images that come to the page: bounded before they are decoded, shrunk, and kept for a while."""

import collections
import dataclasses
import secrets
import threading
from collections.abc import Hashable
from typing import Generic, TypeVar

import numpy as np
from PIL import Image

from ccnet_jax.common.errors import UserError
from ccnet_jax.data.images import decode_image, size_in_header
from ccnet_jax.figures import resize

# What a file of each kind begins with. Other kinds are refused: OpenCV reads many, some by old code.
SIGNATURES = {
    "PNG": b"\x89PNG\r\n\x1a\n",
    "JPEG": b"\xff\xd8\xff",
    "WebP": b"RIFF",
    "BMP": b"BM",
}
KEPT = 12  # images, and predictions, at a time

Value = TypeVar("Value")


@dataclasses.dataclass(frozen=True)
class Limits:
    """What an image may have.

    Attributes:
      megabytes: of its file.
      megapixels: of its header.
      side: longest side in pixels that the network sees; larger images are shrunk.
    """

    megabytes: int = 32
    megapixels: int = 50
    side: int = 1024


@dataclasses.dataclass(frozen=True)
class Upload:
    """An image as the network sees it.

    Attributes:
      pixels: uint8 [H, W, 3] RGB, no side longer than `Limits.side`.
      own_size: (height, width) of its file.
    """

    pixels: np.ndarray
    own_size: tuple[int, int]

    @classmethod
    def of(cls, pixels: np.ndarray, side: int) -> "Upload":
        """The image uint8 [H, W, 3] RGB, shrunk where a side is longer than `side`."""
        height, width = pixels.shape[:2]
        ratio = min(1.0, side / max(height, width))
        size = max(1, round(height * ratio)), max(1, round(width * ratio))
        return cls(resize(pixels, size), (height, width))


class TooLarge(UserError):
    """A file has more bytes, or an image more pixels, than the page takes."""


class Gone(UserError):
    """What is asked for is not kept, or not any more."""


def read_upload(data: bytes, limits: Limits) -> Upload:
    """The image in a file's bytes. Nothing is decoded before its header's size is known to be allowed.

    Raises:
      TooLarge: it has more bytes or pixels than `limits` allow.
      UserError: it is empty, corrupt, or no image of a kind that is taken.
    """
    if not data:
        raise UserError("the file is empty; choose another one")
    if len(data) > limits.megabytes * 10**6:
        raise TooLarge(too_many_bytes(limits))
    try:
        size = size_in_header(data) if data.startswith(tuple(SIGNATURES.values())) else None
    except Image.DecompressionBombError:
        raise TooLarge(_too_many_pixels("more", limits)) from None
    if size is None:
        *kinds, last = SIGNATURES
        raise UserError(f"the file is no {', '.join(kinds)} or {last} image; choose one that is")
    if size[0] * size[1] > limits.megapixels * 10**6:
        raise TooLarge(_too_many_pixels(f"{size[0]} x {size[1]} pixels, more", limits))
    return Upload.of(decode_image(data, "the file"), limits.side)


def too_many_bytes(limits: Limits) -> str:
    """A message on a file that is too large."""
    return (
        f"the file has more than {limits.megabytes} MB, which this page does not take; shrink the image, "
        "or start the program with a larger --megabytes"
    )


def _too_many_pixels(found: str, limits: Limits) -> str:
    return (
        f"the image has {found} than the {limits.megapixels} million pixels that this page takes; shrink "
        "it, or start the program with a larger --megapixels"
    )


class Store(Generic[Value]):
    """The last values, each under a key; safe to use from several threads.

    Args:
      what: words for a value, for error messages.
      most: values that are kept; the one that was not asked for the longest time goes first.
    """

    def __init__(self, what: str, most: int = KEPT):
        self._what, self._most = what, most
        self._values: collections.OrderedDict[Hashable, Value] = collections.OrderedDict()
        self._lock = threading.Lock()

    def put(self, value: Value, key: Hashable | None = None) -> Hashable:
        """Keep a value; its key, which nobody can guess where none is given."""
        key = secrets.token_urlsafe(12) if key is None else key
        with self._lock:
            self._values[key] = value
            self._values.move_to_end(key)
            while len(self._values) > self._most:
                self._values.popitem(last=False)
        return key

    def find(self, key: Hashable) -> Value | None:
        """The value of a key, None where there is none."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
            return self._values.get(key)

    def get(self, key: Hashable) -> Value:
        """The value of a key. Raises Gone where there is none."""
        value = self.find(key)
        if value is None:
            raise Gone(f"{self._what} is not kept here any more; choose it again")
        return value
