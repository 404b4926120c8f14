"""Where the time of training goes: to steps, to waiting for data, to compiling."""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import jax

_COMPILED = "/jax/core/compile/backend_compile_duration"  # JAX reports it for programs from its cache, too
_LONG_WAIT = 0.1  # fraction of the time

State = TypeVar("State")  # of whatever is trained
Batch = dict[str, Any]  # "image", and what a step reads beside it
Metrics = dict[str, Any]
TrainStep = Callable[[State, Batch], tuple[State, Metrics]]


class StepClock:
    """Measures the steps between two logs. Inside `with`, JAX reports to it what it compiles.

    Args:
      batch_size: images of a step, over all devices.
      start: steps before this process began.
      steps: steps of the whole run.
      began: when the program began, by `time.perf_counter()`.
    """

    def __init__(self, batch_size: int, start: int, steps: int, began: float):
        self._batch_size, self._start, self._steps, self._began = batch_size, start, steps, began
        self._first_step: Future[float] | None = None
        self._step: Future[float] | None = None  # the newest; its result is when the devices ended it
        self._last_step = start
        self._compilations = 0  # of whatever JAX compiled in this process
        self._calls_that_compiled = 0
        self._watcher = ThreadPoolExecutor(1)
        self._hints: list[str] = []
        self._judged = False
        self._restart()

    def __enter__(self) -> "StepClock":
        jax.monitoring.register_event_duration_secs_listener(self._note_compilation)
        return self

    def __exit__(self, *error: object) -> None:
        jax.monitoring.unregister_event_duration_listener(self._note_compilation)
        self._watcher.shutdown()

    def measure_steps(self, train_step: TrainStep[State]) -> TrainStep[State]:
        """`train_step`, with each call measured."""

        def watched_step(state: State, batch: Batch) -> tuple[State, Metrics]:
            before, compilations = time.perf_counter(), self._compilations
            state, metrics = train_step(state, batch)
            if self._compilations > compilations:
                self._note_call_that_compiled(time.perf_counter() - before, batch)
            self._step = self._watcher.submit(_time_when_ready, metrics)
            self._first_step = self._first_step or self._step
            return state, metrics

        return watched_step

    def measure_batches(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The batches, with the time measured in which the devices have nothing to do but wait for one.

        Time in which they still work on the step before does not count, nor does the start of the loader.
        """
        remaining = iter(batches)
        while True:
            asked = time.perf_counter()
            batch = next(remaining, None)
            if batch is None:
                return
            arrived = time.perf_counter()
            if self._step is None:
                self._restart()
            elif self._step.done():
                self._waited += max(0.0, arrived - max(asked, self._step.result()))
            yield batch

    def read(self, step: int) -> dict[str, float]:
        """What was measured since the last reading, without the time of compiling and of each `pause`.

        Returns:
          images_per_second; data_wait_fraction, from 0 to 1; seconds_left, without validation;
          compile_seconds; save_seconds, in which training stood still for checkpoints;
          in the first reading also seconds_to_first_step, from `began` to the end of the first step.
        """
        steps = step - self._last_step
        seconds = time.perf_counter() - self._since - self._compile_seconds
        values = {
            "images_per_second": self._batch_size * steps / seconds,
            "data_wait_fraction": self._waited / seconds,
            "seconds_left": (self._steps - step) * seconds / steps,
            "compile_seconds": self._compile_seconds,
            "save_seconds": self._save_seconds,
        }
        if self._last_step == self._start and self._first_step is not None:
            values["seconds_to_first_step"] = self._first_step.result() - self._began
        if step > self._start + 1:  # before, the loader has only just started
            self._judge(values["data_wait_fraction"])
        self._last_step = step
        self._restart()
        return values

    def _restart(self) -> None:
        """Measure from now on."""
        self._since = time.perf_counter()
        self._waited = self._compile_seconds = self._save_seconds = 0.0

    @contextlib.contextmanager
    def pause(self, saving: bool = False) -> Iterator[None]:
        """What happens inside is no training: saving, evaluating."""
        before = time.perf_counter()
        yield
        seconds = time.perf_counter() - before
        self._since += seconds
        self._save_seconds += seconds * saving

    def hints(self) -> list[str]:
        """Messages for the user that were not handed out yet."""
        hints, self._hints = self._hints, []
        return hints

    def _judge(self, wait_fraction: float) -> None:
        """A hint at the first log, if waiting takes long."""
        if not self._judged and wait_fraction > _LONG_WAIT:
            self._hints.append(
                f"hint: {wait_fraction:.0%} of the time is waiting for data; raise data.workers "
                "(--config.data.workers=N), up to the number of cores"
            )
        self._judged = True

    def _note_compilation(self, event: str, duration_secs: float, **details: str | int) -> None:
        self._compilations += event == _COMPILED

    def _note_call_that_compiled(self, seconds: float, batch: Batch) -> None:
        self._compile_seconds += seconds
        self._calls_that_compiled += 1
        if self._calls_that_compiled == 2:
            self._hints.append(
                f"warning: images of shape {list(batch['image'].shape)} made JAX compile the step again, "
                f"in {seconds:.1f} s, as each new shape does; config.data.crop gives all images one size"
            )


def _time_when_ready(metrics: Metrics) -> float:
    """`time.perf_counter()` when the devices have computed a step's metrics."""
    jax.block_until_ready(metrics)
    return time.perf_counter()
