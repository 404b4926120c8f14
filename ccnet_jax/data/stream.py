"""The endless stream of batches that training reads: in a fixed order, whoever makes them.

An image that is corrupt, or was removed, is an error; or, up to a number of them, the next image of the
order takes its place.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import grain.python as grain
import numpy as np

from ccnet_jax.common.errors import UserError
from ccnet_jax.common.log import say
from ccnet_jax.data.config import DataConfig
from ccnet_jax.data.images import UnusableImage
from ccnet_jax.data.workers import Workers

EPOCHS = 10**9  # for ever; Grain's own "for ever" overflows where a batch is one image
_CORRUPT = "corrupt"  # beside the arrays of a sample: {number of a corrupt image: message}

Sample = dict[str, Any]
Make = Callable[[int, np.random.Generator], Sample]  # (number of an image, of all draws) -> sample


class Order(Protocol):
    """Which image stands at each place of an endless stream; every epoch has each image at least once."""

    def __len__(self) -> int:
        """Places of an epoch."""

    def __call__(self, place: int) -> int:
        """The number of the image at a place, from 0."""

    def is_like(self, image: int, other: int) -> bool:
        """Whether an image may take another's place."""


class TrainBatches(Iterator[dict[str, np.ndarray]]):
    """Batches to train on, without end. Batch i is a function of the seed, i and the files alone.

    `close()` ends what makes them ahead: threads, or processes (see `workers.Workers`).

    Args:
      batches: every batch that is to come, by its number.
      workers: processes that make them; 0 makes them in threads.
      skip_corrupt: how many corrupt images are replaced at most.
      start: number of the first batch.
    """

    def __init__(self, batches: grain.MapDataset, workers: int, skip_corrupt: int, start: int):
        self._iterator: Workers | grain.DatasetIterator = (
            Workers(batches, workers)
            if workers
            else iter(batches.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)))
        )
        self._number, self._skip_corrupt = start, skip_corrupt
        self._corrupt: dict[int, int] = {}  # {number of an image: of the first batch that lacks it}
        self._replaced: dict[int, int] = {}  # {number of a batch: its images that stand in for others}

    def __next__(self) -> dict[str, np.ndarray]:
        """The next batch. Raises UserError naming the image or file that is wrong."""
        batch = next(self._iterator)
        self._number += 1
        if found := batch.pop(_CORRUPT, None):
            self._note(found)
        return batch

    def read(self, step: int) -> dict[str, float]:
        """What to log of the batches up to that of step `step`, counted from 1, since the last reading.

        Returns:
          replaced_images, how many stood in for a corrupt one; {} where none may be replaced.
        """
        if not self._skip_corrupt:
            return {}
        read = [number for number in self._replaced if number <= step]
        return {"replaced_images": float(sum(self._replaced.pop(number) for number in read))}

    def progress(self, step: int) -> dict[str, Any]:
        """What a process that goes on after step `step` has to know of corrupt images, as JSON."""
        corrupt = [[image, batch] for image, batch in self._corrupt.copy().items() if batch <= step]
        replaced = [[batch, count] for batch, count in self._replaced.copy().items() if batch <= step]
        return {"corrupt": corrupt, "replaced": replaced}

    def go_on_from(self, progress: Mapping[str, Any]) -> None:
        """Take over what `progress` returned, so that no image counts, or is named, twice."""
        self._corrupt, self._replaced = dict(progress["corrupt"]), dict(progress["replaced"])

    def close(self) -> None:
        """End what makes batches ahead."""
        self._iterator.close()

    def _note(self, found: Sequence[Mapping[int, str]]) -> None:
        self._replaced[self._number] = len(found)
        for image, message in {k: v for corrupt in found for k, v in corrupt.items()}.items():
            if image in self._corrupt:
                continue
            self._corrupt[image] = self._number
            if len(self._corrupt) > self._skip_corrupt:
                raise UserError(_too_many(self._skip_corrupt, message))
            say(
                f"warning: {message}. Others take its place (corrupt image {len(self._corrupt)} of the "
                f"{self._skip_corrupt} that config.data.skip_corrupt allows)"
            )


def train_batches(
    order: Order,
    make: Make,
    stack: Callable[[Sequence[Sample]], Sample],
    draws: int,
    data: DataConfig,
    batch_size: int,
    start: int,
    process: int,
    processes: int,
) -> TrainBatches:
    """The stream of images in an order.

    Args:
      order: of the images.
      make: a sample of an image. It raises UnusableImage where the image cannot be used.
      stack: samples as one batch.
      draws: seed of the draws of `make`.
      data: `config.data`: `workers` (processes; 0 makes batches in threads) and `skip_corrupt`.
      batch_size: of all processes together.
      start: number of batches to leave out.
      process, processes: which of how many readers this is; each gets its rows of every batch, the first
        process the first ones.
    """
    at_place = functools.partial(_sample_at, order=order, make=make, skip_corrupt=data.skip_corrupt)
    samples = grain.MapDataset.range(len(order) * EPOCHS).random_map(at_place, seed=draws)
    batched = samples.batch(batch_size // processes, batch_fn=functools.partial(_make_batch, stack=stack))
    return TrainBatches(batched[process::processes][start:], data.workers, data.skip_corrupt, start)


def batch_places(batch_size: int, step: int) -> range:
    """The places of the batch of step `step`, counted from 1, of all processes together."""
    return range((step - 1) * batch_size, step * batch_size)


def draws_of(seed: int, operations: int) -> int:
    """The seed that Grain gives to a `random_map` so many operations behind `seed(seed)`.

    It is spelled out so that batches stay what they were when the order was such an operation.
    """
    return int(np.random.SeedSequence((seed, operations)).generate_state(1, np.uint32)[0])


def _sample_at(place: int, rng: np.random.Generator, order: Order, make: Make, skip_corrupt: int) -> Sample:
    """The sample at a place; where its image is corrupt, that of the next image of the order.

    Raises UnusableImage where more than `skip_corrupt` images are tried, or none is left.
    """
    state = rng.bit_generator.state
    corrupt: dict[int, str] = {}
    for image in _candidates(order, place):
        if image in corrupt:
            continue
        rng.bit_generator.state = state
        try:
            sample = make(image, rng)
        except UnusableImage as error:
            corrupt[image] = str(error)
            if not skip_corrupt:
                raise
            if len(corrupt) > skip_corrupt:
                raise UnusableImage(_too_many(skip_corrupt, str(error))) from None
        else:
            return {**sample, _CORRUPT: corrupt} if corrupt else sample
    raise UnusableImage(f"{next(iter(corrupt.values()))}. Nothing can take its place: all are corrupt")


def _candidates(order: Order, place: int) -> Iterator[int]:
    """The image at a place, and those that may stand in for it: a whole epoch of them."""
    first = order(place)
    for later in range(place, place + 2 * len(order)):
        if order.is_like(image := order(later), first):
            yield image


def _make_batch(samples: Sequence[Sample], stack: Callable[[Sequence[Sample]], Sample]) -> Sample:
    found = [sample.pop(_CORRUPT) for sample in samples if _CORRUPT in sample]
    return {**stack(samples), _CORRUPT: found} if found else stack(samples)


def _too_many(skip_corrupt: int, message: str) -> str:
    return f"{message}. That is one corrupt image more than config.data.skip_corrupt={skip_corrupt} allows"
