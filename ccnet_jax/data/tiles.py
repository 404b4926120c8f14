"""An image as a grid of tiles that are compressed one by one: a window of it is decoded without the rest.

Tiles stand row by row from the upper left corner. They have `SIDE` pixels a side, fewer at the right and the
lower edge. An image's tiles are QOI files, which are decoded much faster than PNGs
(`experiments/data_throughput.py`), or JPEG files; a label map's are PNG files of class indices.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import imagecodecs
import numpy as np
from jaxtyping import UInt8

from ccnet_jax.common.errors import UserError
from ccnet_jax.data.images import UnusableImage, check_size

SIDE = 128  # in pixels; smaller tiles decode less around a window, larger ones compress better

Decode = Callable[[bytes, object], np.ndarray]  # (a tile's bytes, its name for error messages) -> pixels


def image_tiles(
    image: UInt8[np.ndarray, "H W 3"], jpeg_quality: int | None = None, side: int = SIDE
) -> list[bytes]:
    """The tiles of an image, without loss or as JPEG files of a quality (1 to 100)."""
    tiles = _cut(image, side)
    if jpeg_quality is None:
        return [bytes(imagecodecs.qoi_encode(tile)) for tile in tiles]
    flags = [cv2.IMWRITE_JPEG_QUALITY, jpeg_quality]
    return [cv2.imencode(".jpg", tile[..., ::-1], flags)[1].tobytes() for tile in tiles]


def label_tiles(label: UInt8[np.ndarray, "H W"], side: int = SIDE) -> list[bytes]:
    """The tiles of class indices, without loss: PNGs without filters, which take most of a decoder's time."""
    no_filter = imagecodecs.PNG.FILTER.NONE
    return [bytes(imagecodecs.png_encode(tile, level=9, filter=no_filter)) for tile in _cut(label, side)]


def _cut(pixels: np.ndarray, side: int) -> list[np.ndarray]:
    rows, columns = (range(0, length, side) for length in pixels.shape[:2])
    return [np.ascontiguousarray(pixels[y : y + side, x : x + side]) for y in rows for x in columns]


class TiledImage:
    """An image or label map whose tiles are decoded when they are asked for, each once.

    Args:
      tiles: files of the tiles.
      shape: (height, width) of a label map, (height, width, 3) of an image.
      side: of a tile, in pixels.
      decode: a tile.
      name: of the image, for error messages.

    Raises:
      UnusableImage: there are more or fewer tiles than the image has.
      UserError: it is too large.
    """

    def __init__(
        self, tiles: Sequence[bytes], shape: tuple[int, ...], side: int, decode: Decode, name: object
    ):
        height, width = shape[:2]
        if min(height, width, side) < 1:
            raise UserError(
                f"{name} is {width}x{height} pixels in tiles of {side}; prepare the data set again"
            )
        check_size(width, height, name)
        self.shape: tuple[Any, ...] = shape  # as NumPy types it
        self._tiles, self._side, self._decode, self._name = tiles, side, decode, name
        self._down, self._across = (math.ceil(length / side) for length in shape[:2])
        if len(tiles) != self._down * self._across:
            raise UnusableImage(
                f"{name} has {len(tiles)} tiles, and an image of {shape[1]}x{shape[0]} pixels has "
                f"{self._down * self._across}; prepare the data set again"
            )
        self._pixels = np.empty(shape, np.uint8)
        self._done = np.zeros((self._down, self._across), bool)

    def decode(self, rows: slice, columns: slice) -> np.ndarray:
        """The whole image as uint8 `shape`, of which only these rows and columns have their values.

        Others have theirs or any: positions in the image stay what they are, so that whatever is computed
        from these rows and columns is the same, bit for bit, as from the whole image.

        Raises:
          UnusableImage: a tile is corrupt or has another size than its place.
        """
        for y in self._tiles_of(rows, self.shape[0]):
            for x in self._tiles_of(columns, self.shape[1]):
                if not self._done[y, x]:
                    self._fill(y, x)
        return self._pixels

    def map_values(self, table: UInt8[np.ndarray, "256"]) -> "TiledImage":
        """The image whose values are `table[value]`."""
        decode = functools.partial(_mapped_tile, decode=self._decode, table=table)
        return TiledImage(self._tiles, self.shape, self._side, decode, self._name)

    def whole(self) -> np.ndarray:
        """All pixels, uint8 `shape`. Raises UnusableImage as `decode`."""
        return self.decode(slice(None), slice(None))

    def _tiles_of(self, pixels: slice, length: int) -> range:
        """The rows or columns of tiles in which a side's pixels lie."""
        start, stop, _ = pixels.indices(length)
        return range(start // self._side, math.ceil(stop / self._side))

    def _fill(self, y: int, x: int) -> None:
        number, side = y * self._across + x, self._side
        name = f"tile {number} of {self._name}"
        place = self._pixels[y * side : (y + 1) * side, x * side : (x + 1) * side]
        tile = self._decode(self._tiles[number], name)
        if tile.shape != place.shape:
            raise UnusableImage(
                f"{name} is {tile.shape[1]}x{tile.shape[0]} pixels, and its place in the image is "
                f"{place.shape[1]}x{place.shape[0]}; prepare the data set again"
            )
        place[:] = tile
        self._done[y, x] = True


def _mapped_tile(data: bytes, name: object, decode: Decode, table: np.ndarray) -> np.ndarray:
    return table[decode(data, name)]
