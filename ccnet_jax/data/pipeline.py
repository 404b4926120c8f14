"""From a data set to batches: augmented and shuffled to train on, whole and in order to evaluate."""

import contextlib
import dataclasses
import functools
import itertools
import pathlib
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import cv2
import grain.python as grain
import numpy as np
from absl import flags

from ccnet_jax.data import transforms
from ccnet_jax.data.config import DataConfig, does_not_fit_memory
from ccnet_jax.data.datasets import DATASETS
from ccnet_jax.data.sizes import LARGEST, SMALLEST
from ccnet_jax.data.sources import JoinedSource, LazySource, Source, files_of
from ccnet_jax.data.tiles import TiledPicture
from ccnet_jax.errors import UserError
from ccnet_jax.labels import VOID

_EPOCHS = 10**9  # for ever; Grain's own "for ever" overflows where a batch is one picture


def open_source(data: DataConfig, split: str) -> Source:
    """The pictures of a split.

    Args:
      data: `config.data`, of which `name`, `source` and `dir` say where they are.
      split: of the data set; "train+val" is one after the other.

    Raises:
      UserError: there is no such data set or split, or a file of it is missing.
    """
    if data.source == "tfds":
        from ccnet_jax.data import tfds_source  # TFDS takes seconds to import: only where it is used

        return tfds_source.open_split(data, split)
    if complaints := data.unknown_name():
        raise UserError(complaints[0])
    parts = [DATASETS[data.name].open(data, part) for part in split.split("+")]
    for name, part in zip(split.split("+"), parts, strict=True):
        if not len(part):
            raise UserError(f"split {name} of {data.name} has no pictures; correct data.dir or the name")
    return parts[0] if len(parts) == 1 else JoinedSource(parts)


def files_of_all_splits(data: DataConfig, source: Any) -> list[pathlib.Path]:
    """The files of a split and of the data set's other splits, as far as they are there; for any task.

    Args:
      data: `config.data`.
      source: the pictures of the split.
    """
    found = files_of(source)
    data_set = DATASETS.get(data.name) if data.source == "folder" else None
    if data_set is None or data_set.task != "semantic":  # sources of instances tell of all splits
        return found
    named = (*data.train_split.split("+"), *data.eval_split.split("+"))
    for split in dict.fromkeys((*data_set.splits, *named)):
        with contextlib.suppress(UserError):
            found += files_of(data_set.open(data, split))
    return found


def with_counted_classes(data: DataConfig, source: Source) -> DataConfig:
    """`data`, with the names of the classes if they were counted in the labels of `source`.

    A run keeps them, so that its network still fits when labels are added or taken away later.
    """
    classes = source.label_classes
    return dataclasses.replace(data, classes=classes.names) if classes.counted else data


def summary(data: DataConfig, source: Source, split: str | None = None) -> str:
    """What a source holds, as text to print before training.

    The first line has the data set, the split (where given) and the number of pictures. Data sets with a
    `summary` of their own add what they found in the files, for which they read labels.

    Raises:
      UserError: there is nothing to learn, or files are wrong.
    """
    name = data.name if split is None else f"{data.name}, {split}"
    lines = [f"{name}: {len(source):,} pictures"]
    own_summary = _own_summary(data)
    if own_summary is not None:
        parts = source.parts if isinstance(source, JoinedSource) else [source]
        lines += [line for part in parts for line in own_summary(part).splitlines()]
    return "\n  ".join(lines)


def has_summary(data: DataConfig) -> bool:
    """Whether the data set says more of itself than the number of its pictures."""
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
) -> grain.DatasetIterator:
    """Endless batches {"image": uint8 [b, h, w, 3], "label": uint8 [b, h, w]}, b = batch_size / processes.

    Batch number i is a function of (seed, i) alone: it does not depend on how many workers or
    processes make it, and training resumes in the middle of an epoch by starting at `start`. The iterator's
    `close()` ends its workers.

    Args:
      source: the pictures; every epoch visits each once, in a new order.
      data: `config.data`: `resize`, `scale`, `short_sides`, `crop`, `cat_max_ratio`, `flip` and
        `distort` as in `augmented`; `workers` (processes; 0 reads in threads).
      batch_size: of all processes together.
      seed: of order and augmentation.
      start: number of batches to leave out.
      process, processes: which of how many readers this is; each gets its rows of every batch, the
        first process the first ones.

    Raises:
      UserError: by the size of the first picture, a batch does not fit into memory, or resizing makes
        pictures too small or too large.
    """
    check_first_picture(source, data, batch_size // processes)

    augment = functools.partial(augmented, data=data)
    pictures = _Lazily(source) if isinstance(source, LazySource) else source
    samples = grain.MapDataset.source(pictures).seed(seed).shuffle().repeat(_EPOCHS).random_map(augment)
    batches = samples.batch(batch_size // processes, batch_fn=_stack)[process::processes][start:]
    return iterator(batches, data.workers)


def iterator(batches: grain.MapDataset, workers: int) -> grain.DatasetIterator:
    """The batches one after the other, made ahead by `workers` processes; 0 makes them in threads.

    The iterator's `close()` ends its workers.
    """
    if workers:
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # Grain's workers ask for flags, which a notebook never parses
        reading = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
        batches = batches.to_iter_dataset(reading)
        options = grain.MultiprocessingOptions(num_workers=workers)
        batches = batches.mp_prefetch(options, worker_init_fn=_set_up_worker).map(_out_of_shared_memory)
    else:
        batches = batches.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=4))
    return iter(batches)


class _Lazily:
    """A source whose items are lazy: training asks for a window of each."""

    def __init__(self, source: LazySource):
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> dict[str, TiledPicture]:
        return self._source.lazy(index)


def augmented(
    sample: Mapping[str, transforms.Pixels], rng: np.random.Generator, data: DataConfig
) -> dict[str, np.ndarray]:
    """A sample as training sees it: resized, cropped, flipped, distorted in colour, padded, in this order.

    Args:
      sample: "image" uint8 [H, W, 3] and "label" uint8 [H, W], whole or in tiles.
      data: `config.data`: `resize`, `scale` and `short_sides` as in `transforms.random_size`, `crop`
        (height, width) and `cat_max_ratio` as in `transforms.random_window`, `flip`, `distort`. Where
        `crop` is None the whole picture is taken.
      rng: of all draws.

    Raises:
      UserError: the resized picture is larger than `LARGEST`.
    """
    label = sample["label"]
    size = transforms.random_size(label.shape, data.resize, data.scale, data.short_sides, rng)
    if max(size) > LARGEST:
        raise UserError(
            f"a picture of {label.shape[1]}x{label.shape[0]} pixels is resized to {size[1]}x{size[0]}; lower "
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


def check_first_picture(source: Source, data: DataConfig, batch_size: int) -> None:
    """Raise UserError where the config does not go together with the size of the first picture.

    Args:
      source: the pictures.
      data: `config.data`: `resize`, `scale`, `short_sides` and `crop`.
      batch_size: of this process.
    """
    height, width = source[0]["label"].shape
    sizes = transforms.possible_sizes((height, width), data.resize, data.scale, data.short_sides)
    smallest, largest = min(map(min, sizes)), max(map(max, sizes))
    names = ("resize", "scale", "short_sides")
    resizing = [
        f"config.data.{name}={getattr(data, name)}" for name in names if getattr(data, name) is not None
    ]
    if resizing and (smallest < SMALLEST or largest > LARGEST):
        raise UserError(
            f"{' and '.join(resizing)} make{'s' * (len(resizing) == 1)} sides of {smallest} to {largest} "
            f"pixels of the first picture, which is {width}x{height}; choose values that keep its sides from "
            f"{SMALLEST} to "
            f"{LARGEST}, or None"
        )
    size = data.crop or max(sizes)
    if complaint := does_not_fit_memory(batch_size, size):
        raise UserError(complaint)


def _set_up_worker(worker: int, workers: int) -> None:
    """As many processes as cores, each on one; and Ctrl-C, which a terminal sends to all, to the parent."""
    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _out_of_shared_memory(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The batch in memory of this process.

    On the CPU, JAX takes a batch as it is and holds it until the process ends, when it is too late for Grain
    to release the memory that workers share.
    """
    return {key: np.array(value, subok=False) for key, value in batch.items()}


def _stack(samples: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Samples as a batch. Raises UserError where they have several sizes."""
    sizes = {sample["label"].shape for sample in samples}
    if len(sizes) > 1:
        two = " and ".join(f"{width}x{height}" for height, width in sorted(sizes)[:2])
        raise UserError(f"pictures of {two} pixels cannot be one batch; set config.data.crop to one size")
    return {key: np.stack([sample[key] for sample in samples]) for key in samples[0]}


def evaluation_batches(
    source: Source, count: int, batch_size: int, process: int = 0, processes: int = 1
) -> Iterator[dict[str, Any]]:
    """Whole pictures of one size each batch, {"image", "label", "index"}; every picture exactly once.

    Pictures are gathered by size, so that a network is compiled once a size. A batch that is not full
    is filled up with black pictures of void label, whose "index" is -1.

    Args:
      source: the pictures.
      count: how many of them, from the first.
      batch_size: of this process.
      process, processes: this process takes every `processes`-th picture from number `process`.
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
            yield _filled(group, batch_size)
            group.clear()
    for group in waiting.values():
        if group:
            yield _filled(group, batch_size)


def _filled(group: list[dict[str, Any]], batch_size: int) -> dict[str, Any]:
    """The samples as a batch, filled up with void pictures."""
    empty = {
        "image": np.zeros_like(group[0]["image"]),
        "label": np.full_like(group[0]["label"], VOID),
        "index": -1,
    }
    filled = list(itertools.islice(itertools.chain(group, itertools.repeat(empty)), batch_size))
    return _stack(filled)
