"""From a data set to batches: augmented and shuffled to train on, whole and in order to evaluate."""

import itertools
import signal
from collections.abc import Iterator
from typing import Any

import grain.python as grain
import numpy as np
from absl import flags

from ccnet_jax.data import camvid, cityscapes, streets, transforms
from ccnet_jax.data.files import VOID, Source
from ccnet_jax.errors import UserError

DATASETS = ("camvid", "cityscapes", "streets")


def open_source(data: Any, split: str) -> Source:
    """The split of the data set that `data.name` and `data.dir` say. Raises UserError if it is not there."""
    if data.name == "streets":
        if split not in streets.SPLITS:
            raise UserError(f"streets has the splits {', '.join(streets.SPLITS)}, not {split!r}")
        return streets.Streets(split)
    if data.name == "camvid":
        return camvid.open_camvid(data.dir, split)
    if data.name == "cityscapes":
        return cityscapes.open_cityscapes(data.dir, split)
    raise UserError(f"data.name={data.name!r} does not exist; choose one of {', '.join(DATASETS)}")


def train_batches(
    source: Source,
    data: Any,
    batch_size: int,
    seed: int,
    start: int = 0,
    process: int = 0,
    processes: int = 1,
) -> Iterator[dict[str, np.ndarray]]:
    """Endless batches {"image": uint8 [b, h, w, 3], "label": uint8 [b, h, w]}, b = batch_size / processes.

    Batch number i is a function of (seed, i) alone: it does not depend on how many workers or
    processes make it, and training resumes in the middle of an epoch by starting at `start`.

    Args:
      source: the pictures; every epoch visits each once, in a new order.
      data: the config's `data`: `crop` (height, width) or None for whole pictures, `scale` (lowest,
        highest ratio) or None, `flip`, `workers` (processes; 0 reads in threads).
      batch_size: of all processes together.
      seed: of order and augmentation.
      start: number of batches to leave out.
      process, processes: which of how many readers this is; each gets its own part of every batch.
    """

    def augment(sample: dict[str, np.ndarray], rng: np.random.Generator) -> dict[str, np.ndarray]:
        image, label = sample["image"], sample["label"]
        if data.scale is not None:
            image, label = transforms.random_scale(image, label, data.scale, rng)
        if data.crop is not None:
            image, label = transforms.random_crop(image, label, data.crop, rng)
        if data.flip:
            image, label = transforms.random_flip(image, label, rng)
        return {"image": np.ascontiguousarray(image), "label": np.ascontiguousarray(label)}

    samples = grain.MapDataset.source(source).seed(seed).shuffle().repeat().random_map(augment)
    batches = samples[process::processes].batch(batch_size // processes)[start:]
    if data.workers:
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # Grain's workers ask for flags, which a notebook never parses
        reading = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
        batches = batches.to_iter_dataset(reading)
        options = grain.MultiprocessingOptions(num_workers=data.workers)
        batches = batches.mp_prefetch(options, worker_init_fn=_leave_ctrl_c_to_the_parent)
    else:
        batches = batches.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=4))
    return iter(batches)


def _leave_ctrl_c_to_the_parent(worker: int, workers: int) -> None:
    """A terminal sends Ctrl-C to all processes; the parent needs its workers to end its step."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


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
        grain.ReadOptions(num_threads=2, prefetch_buffer_size=2 * batch_size)
    )
    for index, sample in zip(indices, samples, strict=True):
        group = waiting.setdefault(sample["label"].shape, [])
        group.append({**sample, "index": index})
        if len(group) == batch_size:
            yield _stack(group, batch_size)
            group.clear()
    for group in waiting.values():
        if group:
            yield _stack(group, batch_size)


def _stack(group: list[dict[str, Any]], batch_size: int) -> dict[str, Any]:
    empty = {
        "image": np.zeros_like(group[0]["image"]),
        "label": np.full_like(group[0]["label"], VOID),
        "index": -1,
    }
    filled = list(itertools.islice(itertools.chain(group, itertools.repeat(empty)), batch_size))
    return {key: np.stack([sample[key] for sample in filled]) for key in empty}
