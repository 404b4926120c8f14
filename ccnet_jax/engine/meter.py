"""The metrics of steps, on the host: means over an interval, and a watch for what goes wrong."""

import math
import statistics
from collections import deque
from collections.abc import Mapping
from typing import Any

import jax

from ccnet_jax.common.errors import EndsElsewhere

BATCH_MISSING = "batch_missing"  # in a batch and in metrics: rows of a process that has no batch
REMEMBERED = 101  # losses whose median is the usual one
_JUDGED_FROM = 20  # losses from which a median says something


class NotFinite(Exception):
    """A step that is not finite, and changed nothing.

    Attributes:
      step: its number.
      made: steps of the run before it that were made, by which the schedule counts.
      words: which of its numbers are not finite.
    """

    def __init__(self, step: int, made: int, words: str):
        super().__init__(f"step {step}: {words}")
        self.step, self.made, self.words = step, made, words


class BatchMissing(EndsElsewhere):
    """A step in which a process had no batch to take part with; it changed nothing."""


class Meter:
    """Takes the metrics of every step.

    Args:
      start: steps before this process began.
      guarded: {metric: what to call it} of those that have to be finite; "loss" is one of them.
      skip: steps of the run that may be not finite.
      spike: multiple of the median loss from which one is told; None tells of none.

    Attributes:
      step: the newest step whose metrics are known; the state is sound up to it.
    """

    def __init__(self, start: int, guarded: Mapping[str, str], skip: int = 0, spike: float | None = None):
        self.step = start
        self._guarded, self._skip, self._spike = guarded, skip, spike
        self._pending: tuple[int, dict[str, Any]] | None = None
        self._sums: dict[str, float] = {}
        self._count = self._skipped = 0
        self._losses: deque[float] = deque(maxlen=REMEMBERED)
        self._remarks: list[tuple[int, str]] = []

    def add(self, step: int, metrics: dict[str, Any]) -> None:
        """Note the metrics of a step, which the devices may not have finished."""
        self._pending = step, metrics

    def wait(self) -> None:
        """Wait for the step that was added last, and take its metrics.

        Raises BatchMissing where a process had no batch for it, and NotFinite where they are not finite and
        no more steps may be skipped.
        """
        if self._pending is None:
            return
        (step, metrics), self._pending = self._pending, None
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        if values.pop(BATCH_MISSING, 0):
            raise BatchMissing(f"step {step}: a process had no batch")
        if words := self._not_finite(values):
            if self._skipped >= self._skip:
                raise NotFinite(step, self.steps_made, words)
            self._skipped += 1
            self._remarks.append((step, f"is skipped: {words}, {self._skipped}. time"))
        else:
            self._watch(step, values["loss"])
            for name, value in values.items():
                self._sums[name] = self._sums.get(name, 0.0) + value
            self._count += 1
        self.step = step

    @property
    def steps_made(self) -> int:
        """Steps of the run that were made, without those that were skipped: the optimizer's own count."""
        return self.step - self._skipped

    def _not_finite(self, values: dict[str, float]) -> str:
        """Which of a step's numbers are not finite, in words; "" where all are."""
        return " and ".join(
            f"{called} is {values[name]}"
            for name, called in self._guarded.items()
            if not math.isfinite(values[name])
        )

    def _watch(self, step: int, loss: float) -> None:
        """Remark on a loss far above the usual."""
        if self._spike is not None and len(self._losses) >= _JUDGED_FROM:
            usual = statistics.median(self._losses)
            if loss > self._spike * usual > 0:
                self._remarks.append((step, f"has a loss of {loss:.4g}, where {usual:.4g} is usual"))
        self._losses.append(loss)

    def means(self) -> dict[str, float]:
        """The means of the steps since the last call, and what was skipped in the whole run, if any was.

        Where all were skipped there are no means.
        """
        values = {name: total / self._count for name, total in self._sums.items()}
        self._sums, self._count = {}, 0
        return values | ({"skipped_steps": self._skipped} if self._skipped else {})

    def remarks(self) -> list[tuple[int, str]]:
        """(step, what is to be said of it) that were not handed out yet."""
        remarks, self._remarks = self._remarks, []
        return remarks

    def progress(self) -> dict[str, Any]:
        """What a process that goes on from here has to know, as JSON."""
        return {
            "sums": dict(self._sums),  # it is written while training goes on
            "count": self._count,
            "skipped": self._skipped,
            "losses": list(self._losses),
        }

    def go_on_from(self, progress: dict[str, Any]) -> None:
        """Take over what `progress` returned."""
        self._sums, self._count = dict(progress["sums"]), progress["count"]
        self._skipped = progress["skipped"]
        self._losses.extend(progress["losses"])
