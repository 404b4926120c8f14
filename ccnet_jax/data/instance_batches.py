"""From images with objects to batches of a few shapes: one compiled step serves every batch of a shape.

Images are resized and lie in the upper left corner of a canvas, the first that holds them. All images of
a batch have the same canvas.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import grain.python as grain
import numpy as np

from ccnet_jax.common.errors import UserError
from ccnet_jax.data import stream, transforms
from ccnet_jax.data.config import DataConfig
from ccnet_jax.data.instances import MASK_CELLS, InstanceSource, Objects, cell_fractions
from ccnet_jax.data.sizes import scaled_size
from ccnet_jax.data.stream import TrainBatches

MULTIPLE = 32  # of which a canvas's sides are multiples: the strides of the feature pyramid

Size = tuple[int, int]  # (height, width)


def canvases(data: DataConfig, sizes: Sequence[Size]) -> list[Size]:
    """The canvases for images of these sizes.

    With `data.resize` they are its box in landscape and in portrait, or one of them if no image needs the
    other; without it one that holds all images.
    """
    if data.resize is None:
        return [_rounded_up((max(height for height, _ in sizes), max(width for _, width in sizes)))]
    long, short = max(data.resize), min(data.resize)
    landscape, portrait = _rounded_up((short, long)), _rounded_up((long, short))
    wanted = {landscape if width >= height else portrait for height, width in sizes}
    return [canvas for canvas in dict.fromkeys((landscape, portrait)) if canvas in wanted]


def canvas_of(size: Size, data: DataConfig, choices: Sequence[Size]) -> int:
    """Which of the canvases an image lies on.

    Raises UserError where it is larger than all of them.
    """
    height, width = scaled_size(size, data.resize, 1.0)
    for i, canvas in enumerate(choices):
        if height <= canvas[0] and width <= canvas[1]:
            return i
    raise UserError(
        f"an image of {size[1]}x{size[0]} pixels is larger than those that training began with; set "
        "config.data.resize to (long, short) sides in pixels"
    )


def _rounded_up(size: Size) -> Size:
    height, width = (-(-side // MULTIPLE) * MULTIPLE for side in size)
    return height, width


class Order:
    """Which image stands at each place of an endless stream, whose batches have one canvas each.

    An epoch has each image once. Where the images of a canvas do not fill their last batch, some of them
    come twice. The order of an epoch is a function of (seed, epoch) alone.

    Args:
      canvas: of each image, its number.
      batch_size: places of a batch.
      seed: of the order.
    """

    def __init__(self, canvas: Sequence[int], batch_size: int, seed: int):
        self._canvas = canvas
        self._groups = [np.flatnonzero(np.equal(canvas, number)) for number in np.unique(canvas)]
        self._batch_size, self._seed = batch_size, seed
        self._batches = sum(-(-len(group) // batch_size) for group in self._groups)
        self._epoch_at_hand = functools.lru_cache(2)(self._epoch)

    def __len__(self) -> int:
        """Places of an epoch."""
        return self._batches * self._batch_size

    def __call__(self, place: int) -> int:
        """The image at a place, from 0."""
        epoch, place = divmod(place, len(self))
        return int(self._epoch_at_hand(epoch)[place])

    def is_like(self, image: int, other: int) -> bool:
        """Whether an image may take another's place: both lie on the same canvas."""
        return self._canvas[image] == self._canvas[other]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_epoch_at_hand"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._epoch_at_hand = functools.lru_cache(2)(self._epoch)

    def _epoch(self, epoch: int) -> np.ndarray:
        rng = np.random.default_rng([self._seed, epoch])
        batches = []
        for group in self._groups:
            images = rng.permutation(group)
            count = -(-len(group) // self._batch_size) * self._batch_size
            batches.append(np.resize(images, count).reshape(-1, self._batch_size))
        return rng.permutation(np.concatenate(batches)).ravel()


def train_batches(
    source: InstanceSource,
    data: DataConfig,
    objects: int,
    batch_size: int,
    seed: int,
    start: int = 0,
    process: int = 0,
    processes: int = 1,
) -> TrainBatches:
    """Endless batches of images with objects, as `sample` makes them, of one canvas each.

    Batch number i is a function of (seed, i) alone: it does not depend on how many workers or processes make
    it. See `stream.TrainBatches`.

    Args:
      source: the images; those without objects to train on are left out.
      data: `config.data`: `resize`, `flip`, `distort`, `workers` and `skip_corrupt`.
      objects: places for objects in an image.
      batch_size: of all processes together.
      seed: of order and augmentation.
      start: number of batches to leave out.
      process, processes: which of how many readers this is; each gets its rows of every batch.
    """
    images, choices, order = _order(source, data, batch_size, seed)
    make = functools.partial(
        _sample_of, images=images, source=source, choices=choices, data=data, objects=objects
    )
    return stream.train_batches(
        order,
        make,
        _stack,
        stream.draws_of(seed, 1),
        data,
        batch_size,
        start,
        process,
        processes,
    )


def batch_names(source: InstanceSource, data: DataConfig, batch_size: int, seed: int, step: int) -> list[str]:
    """The names of the images that training step `step` sees, counted from 1; none is read for it.

    An image that is corrupt has its name here, too, not the one that takes its place.

    Args:
      source, data, batch_size, seed: as of `train_batches`.
      step: of training.
    """
    images, _, order = _order(source, data, batch_size, seed)
    return [source.name(images[order(place)]) for place in stream.batch_places(batch_size, step)]


def training_canvases(source: InstanceSource, data: DataConfig) -> list[Size]:
    """The canvases of the images with objects to train on."""
    return canvases(data, [source.size(i) for i in range(len(source)) if source.count(i) != 0])


def _order(
    source: InstanceSource, data: DataConfig, batch_size: int, seed: int
) -> tuple[list[int], list[Size], Order]:
    """The numbers of the images with objects, the canvases, and the order of training."""
    images = [i for i in range(len(source)) if source.count(i) != 0]
    sizes = [source.size(i) for i in images]
    choices = canvases(data, sizes)
    return images, choices, Order([canvas_of(size, data, choices) for size in sizes], batch_size, seed)


def _sample_of(
    number: int, rng: np.random.Generator, images: Sequence[int], **settings: Any
) -> dict[str, np.ndarray]:
    """`sample` of one of the `images` that are trained on."""
    return sample(images[number], rng, **settings)


def sample(
    index: int,
    rng: np.random.Generator,
    source: InstanceSource,
    choices: Sequence[Size],
    data: DataConfig,
    objects: int,
) -> dict[str, np.ndarray]:
    """An image as training sees it: resized, flipped, distorted in colour, on its canvas.

    Args:
      index: of the image.
      rng: of all draws.
      source: the images.
      choices: the canvases.
      data: `config.data`: `resize`, `flip` and `distort`.
      objects: places for objects; of more objects the largest are taken.

    Returns:
      image: uint8 [h, w, 3].
      size: int32 [2], the (height, width) of the image on its canvas.
      boxes: float32 [n, 4], n = `objects`; those that are not used are 0.
      classes: int32 [n].
      used: bool [n], which places of the lists are used.
      masks: uint8 [n, M, M], as of `cell_fractions`.
    """
    found = largest_objects(source.objects(index), objects)
    image, size, canvas = on_canvas(source[index]["image"], choices, data)
    ratio = np.array([size[1], size[0], size[1], size[0]]) / np.tile(source.size(index)[::-1], 2)
    boxes = (found.boxes * ratio).astype(np.float32)
    pairs = zip(found.masks, found.boxes, strict=True)
    masks = np.array([cell_fractions(mask, box) for mask, box in pairs], np.uint8).reshape(
        -1, *[MASK_CELLS] * 2
    )
    if data.flip and rng.random() < 0.5:
        image = image[:, ::-1]
        boxes[:, [0, 2]] = size[1] - boxes[:, [2, 0]]
        masks = masks[..., ::-1]
    if data.distort:
        image = transforms.random_distortion(np.ascontiguousarray(image), rng)
    missing = objects - len(boxes)
    return {
        "image": place_on_canvas(image, canvas),
        "size": np.array(size, np.int32),
        "boxes": np.pad(boxes, ((0, missing), (0, 0))),
        "classes": np.pad(found.classes, (0, missing)).astype(np.int32),
        "used": np.arange(objects) < len(boxes),
        "masks": np.pad(masks, ((0, missing), (0, 0), (0, 0))),
    }


def on_canvas(image: np.ndarray, choices: Sequence[Size], data: DataConfig) -> tuple[np.ndarray, Size, Size]:
    """The resized image, its (height, width), and those of its canvas."""
    canvas = choices[canvas_of(image.shape[:2], data, choices)]
    size = scaled_size(image.shape[:2], data.resize, 1.0)
    return transforms.image_window(image, size, 0, 0, size), size, canvas


def place_on_canvas(image: np.ndarray, canvas: Size) -> np.ndarray:
    """The image in the upper left corner of a canvas of the mean colour, uint8 [h, w, 3]."""
    result = np.full((*canvas, 3), transforms.MEAN_COLOUR, np.uint8)
    result[: image.shape[0], : image.shape[1]] = image
    return result


def largest_objects(found: Objects, count: int) -> Objects:
    """The objects without crowds; of more than `count` the largest, in their order."""
    places = np.flatnonzero(~found.crowd)
    if len(places) > count:
        places = np.sort(places[np.argsort(-found.areas[places], kind="stable")[:count]])
    return Objects(
        found.boxes[places],
        found.classes[places],
        [found.masks[i] for i in places],
        found.crowd[places],
        found.areas[places],
    )


def evaluation_batches(
    source: InstanceSource,
    data: DataConfig,
    count: int,
    batch_size: int,
    process: int = 0,
    processes: int = 1,
) -> Iterator[dict[str, np.ndarray]]:
    """{"image", "size", "index"} of one canvas each; every image exactly once.

    A batch that is not full is filled up with images of index -1.

    Args:
      source: the images.
      data: `config.data`: `resize`.
      count: how many of them, from the first.
      batch_size: of this process.
      process, processes: this process takes every `processes`-th image from number `process`.
    """
    choices = canvases(data, [source.size(i) for i in range(count)])
    waiting: dict[Size, list[dict[str, Any]]] = {canvas: [] for canvas in choices}
    indices = range(process, count, processes)
    samples = grain.MapDataset.source(source)[process:count:processes].to_iter_dataset(
        grain.ReadOptions(num_threads=4, prefetch_buffer_size=2 * batch_size)
    )
    for index, sample in zip(indices, samples, strict=True):
        image, size, canvas = on_canvas(sample["image"], choices, data)
        waiting[canvas].append(
            {"image": place_on_canvas(image, canvas), "size": np.array(size, np.int32), "index": index}
        )
        if len(waiting[canvas]) == batch_size:
            yield _fill_batch(waiting[canvas], batch_size)
            waiting[canvas] = []
    for group in waiting.values():
        if group:
            yield _fill_batch(group, batch_size)


def _fill_batch(group: list[dict[str, Any]], batch_size: int) -> dict[str, np.ndarray]:
    """The images as a batch, filled up with the first one, of index -1."""
    return _stack(group + [{**group[0], "index": -1}] * (batch_size - len(group)))


def _stack(images: Sequence[dict[str, Any]]) -> dict[str, np.ndarray]:
    return {key: np.stack([image[key] for image in images]) for key in images[0]}
