"""From a data set to batches: augmented and shuffled to train on, whole and in order to evaluate."""

import contextlib
import functools
import itertools
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import grain.python as grain
import numpy as np

from ccnet_jax.common.errors import UserError
from ccnet_jax.common.labels import VOID
from ccnet_jax.common.words import number_of
from ccnet_jax.data import stream, transforms
from ccnet_jax.data.config import DataConfig, does_not_fit_memory
from ccnet_jax.data.datasets import DATASETS
from ccnet_jax.data.fitting import as_opened
from ccnet_jax.data.images import UnusableImage
from ccnet_jax.data.instances import InstanceSource
from ccnet_jax.data.sizes import LARGEST, SMALLEST, scaled_size
from ccnet_jax.data.sources import JoinedSource, LazySource, Source, files_of
from ccnet_jax.data.stream import TrainBatches


def open_source(data: DataConfig, split: str) -> Source:
    """The images of a split.

    Args:
      data: `config.data`, of which `name`, `source` and `dir` say where they are.
      split: of the data set; "train+val" is one after the other.

    Raises:
      UserError: there is no such data set or split, or a file of it is missing.
    """
    if data.source == "tfds":
        from ccnet_jax.data import tfds_source  # TFDS takes seconds to import: only where it is used

        return tfds_source.open_split(data, split)
    if problems := data.unknown_name():
        raise UserError(problems[0])
    parts = [DATASETS[data.name].open(data.to_open(split), part) for part in split.split("+")]
    for name, part in zip(split.split("+"), parts, strict=True):
        if not len(part):
            raise UserError(f"split {name} of {data.name} has no images; correct data.dir or the name")
    return parts[0] if len(parts) == 1 else JoinedSource(parts)


def files_of_all_splits(data: DataConfig, source: Any) -> list[pathlib.Path]:
    """The files of a split and of the data set's other splits, as far as they are there; for any task.

    Args:
      data: `config.data`.
      source: the images of the split.
    """
    found = files_of(source)
    data_set = data.data_set
    if data_set is None or isinstance(as_opened(source), InstanceSource):  # which tells of all splits
        return found
    named = (*data.train_split.split("+"), *data.eval_split.split("+"))
    for split in dict.fromkeys((*data_set.splits, *named)):
        with contextlib.suppress(UserError):
            found += files_of(data_set.open(data, split))
    return found


def summary(data: DataConfig, source: Source, split: str | None = None) -> str:
    """What a source holds, as text to print before training.

    The first line has the data set, the split (where given) and the number of images. Data sets with a
    `summary` of their own add what they found in the files, for which they read labels.

    Raises:
      UserError: there is nothing to learn, or files are wrong.
    """
    name = data.name if split is None else f"{data.name}, {split}"
    lines = [f"{name}: {number_of(len(source), 'image')}"]
    own_summary = _own_summary(data)
    if own_summary is not None:
        source = as_opened(source)
        parts = source.parts if isinstance(source, JoinedSource) else [source]
        lines += [line for part in parts for line in own_summary(part).splitlines()]
    return "\n  ".join(lines)


def has_summary(data: DataConfig) -> bool:
    """Whether the data set says more of itself than the number of its images."""
    return _own_summary(data) is not None


def _own_summary(data: DataConfig) -> Callable[[Source], str] | None:
    return DATASETS[data.name].summary if data.source == "folder" and data.name in DATASETS else None


def train_batches(
    source: Source,
    data: DataConfig,
    batch_size: int,
    seed: int,
    start: int = 0,
    process: int = 0,
    processes: int = 1,
) -> TrainBatches:
    """Endless batches {"image": uint8 [b, h, w, 3], "label": uint8 [b, h, w]}, b = batch_size / processes.

    Batch number i is a function of (seed, i) alone: it does not depend on how many workers or
    processes make it, and training resumes in the middle of an epoch by starting at `start`. The iterator's
    `close()` ends its workers; see `stream.TrainBatches`.

    Args:
      source: the images; every epoch visits each once, in a new order.
      data: `config.data`: `resize`, `scale`, `short_sides`, `crop`, `cat_max_ratio`, `flip` and
        `distort` as in `augment`; `workers` (processes; 0 reads in threads); `skip_corrupt`.
      batch_size: of all processes together.
      seed: of order and augmentation.
      start: number of batches to leave out.
      process, processes: which of how many readers this is; each gets its rows of every batch, the
        first process the first ones.

    Raises:
      UserError: by the size of the first image, a batch does not fit into memory, or resizing makes
        images too small or too large.
    """
    check_first_image(source, data, batch_size // processes)
    read = source.lazy if isinstance(source, LazySource) else source.__getitem__
    return stream.train_batches(
        Shuffled(len(source), seed),
        functools.partial(_augmented_image, read=read, data=data),
        _stack,
        stream.draws_of(seed, 3),
        data,
        batch_size,
        start,
        process,
        processes,
    )


def batch_names(source: Source, batch_size: int, seed: int, step: int) -> list[str]:
    """The names of the images that training step `step` sees, counted from 1; none is read for it.

    An image that is corrupt has its name here, too, not the one that takes its place.

    Args:
      source, batch_size, seed: as of `train_batches`.
      step: of training.
    """
    order = Shuffled(len(source), seed)
    return [source.name(order(place)) for place in stream.batch_places(batch_size, step)]


class Shuffled:
    """A `stream.Order` of all images, which is a new one in every epoch.

    Args:
      count: of the images.
      seed: of the order.
    """

    def __init__(self, count: int, seed: int):
        self._count = count
        self._images = grain.MapDataset.source(range(count)).seed(seed).shuffle().repeat(stream.EPOCHS)

    def __len__(self) -> int:
        """Places of an epoch."""
        return self._count

    def __call__(self, place: int) -> int:
        """The image at a place, from 0."""
        return self._images[place]

    def is_like(self, image: int, other: int) -> bool:
        """Whether an image may take another's place: a crop of any may."""
        return True


def _augmented_image(
    image: int,
    rng: np.random.Generator,
    read: Callable[[int], Mapping[str, transforms.Pixels]],
    data: DataConfig,
) -> dict[str, np.ndarray]:
    return augment(read(image), rng, data)


def augment(
    sample: Mapping[str, transforms.Pixels], rng: np.random.Generator, data: DataConfig
) -> dict[str, np.ndarray]:
    """A sample as training sees it: resized, cropped, flipped, distorted in colour, padded, in this order.

    Args:
      sample: "image" uint8 [H, W, 3] and "label" uint8 [H, W], whole or in tiles.
      data: `config.data`: `resize`, `scale` and `short_sides` as in `transforms.random_size`, `crop`
        (height, width) and `cat_max_ratio` as in `transforms.random_window`, `flip`, `distort`. Where
        `crop` is None the whole image is taken.
      rng: of all draws.

    Raises:
      UserError: the resized image is larger than `LARGEST`.
    """
    label = sample["label"]
    size = transforms.random_size(label.shape, data.resize, data.scale, data.short_sides, rng)
    if max(size) > LARGEST:
        raise UserError(
            f"an image of {label.shape[1]}x{label.shape[0]} pixels is resized to {size[1]}x{size[0]}; lower "
            f"config.data.resize, scale or short_sides, so that sides have at most {LARGEST} pixels"
        )
    crop = data.crop or size
    image, label = transforms.random_window(sample["image"], label, size, crop, data.cat_max_ratio, rng)
    if data.flip:
        image, label = transforms.random_flip(image, label, rng)
    if data.distort:
        image = transforms.random_distortion(image, rng)
    image, label = transforms.pad(image, label, crop)
    return {"image": image, "label": label}


def check_first_image(source: Source, data: DataConfig, batch_size: int) -> None:
    """Raise UserError where the config does not go together with the size of the first image.

    Args:
      source: the images.
      data: `config.data`: `resize`, `scale`, `short_sides` and `crop`; `skip_corrupt`.
      batch_size: of this process.
    """
    height, width = _first_size(source, data.skip_corrupt)
    sizes = transforms.possible_sizes((height, width), data.resize, data.scale, data.short_sides)
    smallest, largest = min(map(min, sizes)), max(map(max, sizes))
    names = ("resize", "scale", "short_sides")
    resizing = [
        f"config.data.{name}={getattr(data, name)}" for name in names if getattr(data, name) is not None
    ]
    if resizing and (smallest < SMALLEST or largest > LARGEST):
        raise UserError(
            f"{' and '.join(resizing)} make{'s' * (len(resizing) == 1)} sides of {smallest} to {largest} "
            f"pixels of the first image, which is {width}x{height}; choose values that keep its sides from "
            f"{SMALLEST} to "
            f"{LARGEST}, or None"
        )
    size = data.crop or max(sizes)
    if problem := does_not_fit_memory(batch_size, size):
        raise UserError(problem)


def first_size(source: Source, data: DataConfig) -> tuple[int, int]:
    """(height, width) at which training sees the first image where `data.crop` is None."""
    return scaled_size(_first_size(source, data.skip_corrupt), data.resize, 1.0)


def _first_size(source: Source, skip_corrupt: int) -> tuple[int, int]:
    """(height, width) of the first image that is not among so many corrupt ones."""
    for image in range(min(skip_corrupt, len(source) - 1)):
        with contextlib.suppress(UnusableImage):
            return source[image]["label"].shape
    return source[min(skip_corrupt, len(source) - 1)]["label"].shape


def _stack(samples: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Samples as a batch. Raises UserError where they have several sizes."""
    sizes = {sample["label"].shape for sample in samples}
    if len(sizes) > 1:
        two = " and ".join(f"{width}x{height}" for height, width in sorted(sizes)[:2])
        raise UserError(f"images of {two} pixels cannot be one batch; set config.data.crop to one size")
    return {key: np.stack([sample[key] for sample in samples]) for key in samples[0]}


def evaluation_batches(
    source: Source, count: int, batch_size: int, process: int = 0, processes: int = 1
) -> Iterator[dict[str, Any]]:
    """Whole images of one size each batch, {"image", "label", "index"}; every image exactly once.

    Images are gathered by size, so that a network is compiled once a size. A batch that is not full
    is filled up with black images of void label, whose "index" is -1.

    Args:
      source: the images.
      count: how many of them, from the first.
      batch_size: of this process.
      process, processes: this process takes every `processes`-th image from number `process`.
    """
    waiting: dict[tuple[int, int], list[dict[str, Any]]] = {}
    indices = range(process, count, processes)
    samples = grain.MapDataset.source(source)[process:count:processes].to_iter_dataset(
        grain.ReadOptions(num_threads=4, prefetch_buffer_size=2 * batch_size)
    )
    for index, sample in zip(indices, samples, strict=True):
        group = waiting.setdefault(sample["label"].shape, [])
        group.append({**sample, "index": index})
        if len(group) == batch_size:
            yield _fill_batch(group, batch_size)
            group.clear()
    for group in waiting.values():
        if group:
            yield _fill_batch(group, batch_size)


def _fill_batch(group: list[dict[str, Any]], batch_size: int) -> dict[str, Any]:
    """The samples as a batch, filled up with void images."""
    empty = {
        "image": np.zeros_like(group[0]["image"]),
        "label": np.full_like(group[0]["label"], VOID),
        "index": -1,
    }
    filled = list(itertools.islice(itertools.chain(group, itertools.repeat(empty)), batch_size))
    return _stack(filled)
