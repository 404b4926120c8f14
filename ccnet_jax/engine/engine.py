"""Keeps a run alive: it goes on where it was stopped, killed or cut off, on one host or many.

    with Engine(config, run, mesh, ...) as engine:           # signals and the folder's lock
        engine.find_start()
        state = engine.restore_or(state, begin)              # checkpoints, metric log, progress
        train_step = engine.measure_steps(train_step)
        for step, batch in engine.steps(batches, callbacks):
            state, metrics = train_step(state, batch)
            engine.after(step, state, metrics)               # log, save, evaluate, stop: the callbacks

It knows no network, no image and no task: it is handed a state, a step, batches, and callbacks.
"""

import contextlib
import dataclasses
import os
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from ccnet_jax.common import devices
from ccnet_jax.common.errors import EndAfterSignal, UserError, read_json, write_json
from ccnet_jax.common.log import say, speaking
from ccnet_jax.common.progress import progress_bar
from ccnet_jax.engine.checkpoints import Checkpoints, OneHostFailed, set_corrupt_aside
from ccnet_jax.engine.clock import StepClock
from ccnet_jax.engine.config import EngineConfig
from ccnet_jax.engine.folder import RunFolder
from ccnet_jax.engine.hosts.link import Link
from ccnet_jax.engine.interruptible import interruptible
from ccnet_jax.engine.lock import locked_for_all_hosts
from ccnet_jax.engine.meter import BatchMissing, Meter, NotFinite
from ccnet_jax.engine.metric_log import MetricLog
from ccnet_jax.engine.missing_batch import with_missing_batches
from ccnet_jax.engine.save_timer import SaveTimer
from ccnet_jax.engine.stopping import Stopped, StopSignal
from ccnet_jax.engine.trace import Trace

Batch = dict[str, Any]
Metrics = dict[str, Any]


class Batches(Iterator[Batch], Protocol):
    """Batches of this process, as NumPy arrays, without end."""

    def close(self) -> None:
        """End what makes them."""

    def read(self, step: int) -> dict[str, float]:
        """What to log of the batches up to a step."""

    def progress(self, step: int) -> Any:
        """What a process that goes on from a step has to know, as JSON."""

    def go_on_from(self, progress: Any) -> None:
        """Take over what `progress` returned."""


class Callback:
    """Something that happens beside the steps; a subclass has a method for each moment that it needs.

    Args:
      engine: of the run.
    """

    def __init__(self, engine: "Engine"):
        self.engine = engine

    def begin(self, state: Any) -> None:
        """Before the first step of this process."""

    def is_due(self, step: int) -> bool:
        """Whether it asks for a checkpoint of this step, since it takes long."""
        return False

    def after_compute(self, state: Any) -> None:
        """As soon as a step has a state, before anything else may fail."""

    def after_step(self, step: int, state: Any) -> None:
        """After a step, in the order of the callbacks."""

    def after_log(self, step: int, values: Mapping[str, float]) -> None:
        """After values were written to the metric log."""

    def after_stop(self, step: int) -> None:
        """After a signal has ended training, and all is saved."""

    def end(self, state: Any) -> None:
        """After the last step."""

    def arrays(self) -> dict[str, Any]:
        """{name: arrays} that belong into a checkpoint; `Checkpoints.restore_item` gives them back."""
        return {}

    def variables(self) -> Any:
        """What is evaluated, drawn and kept as the best instead of the state's variables; None for those."""
        return None


class Engine:
    """What a run needs beside learning; see the page's beginning.

    Args:
      config: what happens how often.
      run: the folder of the run.
      mesh: the devices that train.
      link: to the run's other processes, None where there are none.
      guarded: {metric: what to call it} of those that have to be finite; "loss" is one of them.
      keep_records: writes what describes the run into its folder, where that is missing.
      began: when the program began, by `time.perf_counter()`.

    Attributes:
      start: steps before this process began; from `find_start` on.
      meter, checkpoints, clock, log, bar: from `restore_or` on.
      state: the newest, on the devices; from `restore_or` on.
      batches, batch: all of them, and the newest; from `steps` on.
      stop: the signals that have come.
      stopped_by: the signal by which all hosts stop after this step, 0 for none.
    """

    start: int
    batches: Batches
    batch: Batch

    def __init__(
        self,
        config: EngineConfig,
        run: RunFolder,
        mesh: Mesh,
        link: Link | None,
        guarded: Mapping[str, str],
        keep_records: Callable[[], object],
        began: float,
    ):
        self.config, self.run, self.mesh = config, run, mesh
        self._guarded = guarded
        self._keep_records, self._began = keep_records, began
        self.is_first = jax.process_index() == 0
        self.is_alone = jax.process_count() == 1
        self.save_timer = SaveTimer(config.checkpoint_minutes)
        self.stop = StopSignal(link)
        self.stopped_by = 0
        self._callbacks: Sequence[Callback] = ()
        self._progress: dict[str, Any] = {}  # a converted checkpoint has none
        self._is_finished = False
        self._computing = False  # inside a step, the state's buffers are not to be read
        self.state: Any = None
        self._step = 0

    # ------------------------------------------------------------------ the block
    def __enter__(self) -> "Engine":
        with contextlib.ExitStack() as closing:  # however training ends, what it wrote is whole
            closing.enter_context(speaking(self.is_first))
            closing.enter_context(self.stop)
            self._lock = closing.enter_context(locked_for_all_hosts(self.run))
            closing.push(self._note_finished)  # last, but for the lock: when all that it vouches for is there
            self._closing = closing.pop_all()
        return self

    def __exit__(self, *error: Any) -> bool | None:
        return self._closing.__exit__(*error)

    def enter(self, block: contextlib.AbstractContextManager[Any]) -> None:
        """Enter a block that lasts as long as the engine's, and sees each error that ends training."""
        self._closing.enter_context(block)

    def find_start(self) -> int:
        """The step from which the run goes on, 0 for a new one; corrupt checkpoints are set aside.

        Raises UserError where the run has more steps than `config.steps`, or no checkpoint can be read.
        """
        for line in set_corrupt_aside(self.run):
            say(line)
        self.start = Checkpoints.last_step(self.run) or 0  # 0 of a converted checkpoint, too
        if self.start > self.config.steps:
            raise UserError(
                f"{self.run} is trained to step {self.start}, which is beyond config.steps="
                f"{self.config.steps}; raise --config.steps, or choose another --workdir"
            )
        return self.start

    def is_finished(self) -> bool:
        """Whether the run has made its last step, and an engine has closed all files after it."""
        file = self.run.finished_file
        values = read_json(file, "remove it") if os.path.lexists(file) else None
        return self.start == self.config.steps and values == {"steps": self.start}

    def _note_finished(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self._is_finished and error is None and self.is_first:
            write_json(self.run.finished_file, {"steps": self.config.steps})

    def restore_or(self, state: Any, begin: Callable[[Any], Any]) -> Any:
        """The state of the last checkpoint, or `begin(state)` where there is none.

        Args:
          state: with the shapes and on the devices of what is returned; a dataclass with `step`, int32 [],
            `variables`, which are what `best` keeps, and `optimizer`.
          begin: makes the state with which a new run begins from that.
        """
        config, enter = self.config, self._closing.enter_context
        self.meter = Meter(self.start, self._guarded, config.skip_nonfinite, config.loss_spike)
        self.checkpoints = enter(Checkpoints(self.run, config.keep_checkpoints, config.keep_every))
        if self.checkpoints.latest_step() is None:
            state = begin(state)
        else:
            self.checkpoints.drop_best_after(self.start)
            restored = self.checkpoints.restore_last(state.variables, state.optimizer)
            variables, buffers, self._progress = restored
            step = jax.device_put(jnp.int32(self.start), state.step.sharding)
            state = dataclasses.replace(state, step=step, variables=variables, optimizer=buffers)
            if self._progress:
                self.meter.go_on_from(self._progress)
            say(f"going on from step {self.start} of {self.run}")
        self.clock = enter(StepClock(config.batch_size, self.start, config.steps, self._began))
        self.log = enter(MetricLog(self.run, self.start, enabled=self.is_first))
        self.bar = enter(
            progress_bar(total=config.steps, initial=self.start, unit="step", disable=not self.is_first)
        )
        window = config.profile if self.is_first else None
        self._trace = enter(Trace(self.run, window, self.start))
        self.state = state
        return state

    # ------------------------------------------------------------------ the steps
    def measure_steps(self, train_step: Callable[..., Any]) -> Callable[..., Any]:
        """(state, batch) -> (state, metrics) as `train_step`, with each call measured and traced."""
        measured = self.clock.measure_steps(train_step)

        def watched_step(state: Any, batch: Batch) -> tuple[Any, Metrics]:
            self._computing = True
            with self._trace.step(self._step):
                result = measured(state, batch)
            self._computing = False
            return result

        return watched_step

    def steps(
        self, batches: Batches, callbacks: Sequence[Callback], have_one_shape: bool
    ) -> Iterator[tuple[int, Batch]]:
        """(number of the step, batch on the devices) of all steps that are left.

        `after` must be called for each. have_one_shape: whether all batches do.
        """
        self.batches, self._callbacks = batches, callbacks
        arriving = self._device_batches(have_one_shape)
        self._closing.push(self._save_at_the_end)
        for callback in callbacks:
            callback.begin(self.state)
        left = range(self.start + 1, self.config.steps + 1)
        for step, batch in zip(left, self.clock.measure_batches(arriving), strict=False):
            self._step, self.batch = step, batch
            self.meter.wait()  # one step ahead of the devices and no more: a stop is prompt
            yield step, batch
        for callback in callbacks:
            callback.end(self.state)
        self._is_finished = True
        self.stopped_by = self.stop.agreed_signal()

    def _device_batches(self, have_one_shape: bool) -> Iterator[Batch]:
        """The batches on the devices; a wait for one ends with a signal."""
        self._closing.callback(self.batches.close)
        if "batches" in self._progress and self.is_first:  # which alone wrote what it knew
            self.batches.go_on_from(self._progress["batches"])
        # hosts stop together, which they agree upon after a step, if data come for it
        between = self.stop.check if self.is_alone else self.stop.check_late
        arriving = interruptible(devices.prefetch(self.batches, self.mesh), between)
        if self.is_alone:
            return arriving
        rows = self.config.batch_size // jax.process_count()
        taking_part = with_missing_batches(arriving, rows, self.mesh, have_one_shape)
        return self._closing.enter_context(taking_part)

    def after(self, step: int, state: Any, metrics: Metrics) -> None:
        """Note what a step has computed, which the devices may not have finished; then all callbacks."""
        self.state = state
        for callback in self._callbacks:
            callback.after_compute(state)
        self.meter.add(step, metrics)
        self.stop.nothing_to_save = None
        self.bar.update()
        if step == self.start + 1 and self.is_first:
            self.run.point_latest()
        self.stopped_by = self.stop.agreed_signal()
        for callback in self._callbacks:
            callback.after_step(step, state)

    def is_due(self, every: int, step: int) -> bool:
        """Whether something happens after a step that does so every so many steps, and after the last."""
        return step == self.config.steps or step % every == 0

    # ------------------------------------------------------------------ what callbacks use
    def variables(self) -> Any:
        """What is evaluated, drawn and kept as the best: the newest variables, or a callback's."""
        found = [callback.variables() for callback in self._callbacks]
        return next((variables for variables in found if variables is not None), self.state.variables)

    def write_values(self, step: int, values: dict[str, float]) -> None:
        """To the metric log, and to whatever callback follows it."""
        self.log.write(step, values)
        for callback in self._callbacks:
            callback.after_log(step, values)

    def needs_checkpoint(self, step: int) -> bool:
        """Whether a callback is due after this step."""
        return any(callback.is_due(step) for callback in self._callbacks)

    def attempt(self, step: int, write: Callable[[], object], needed: bool = False) -> None:
        """Write checkpoints; what is not `needed` may fail, and is tried again."""
        try:
            with self.clock.pause(saving=True):
                write()
        except UserError as error:
            if needed or self.config.save_errors == "stop" or isinstance(error, OneHostFailed):
                raise
            self.save_timer.note_failed()
            say(f"warning: at step {step} {error}; training goes on, and tries again")

    def save(self, step: int, needed: bool) -> None:
        """Write a checkpoint with all that training knows; where it is `needed`, wait until it is on disk.

        Raises UserError, on all hosts, where the folder is no longer this run's: see `Lock.check`.
        """
        state = self.state
        self._check_lock()
        self.attempt(step, self._write_records, needed)
        self.save_timer.note_saved()
        others = {name: x for callback in self._callbacks for name, x in callback.arrays().items()}
        progress = self.meter.progress() | {"batches": self.batches.progress(step)}
        self.attempt(
            step,
            lambda: self.checkpoints.save_last(step, state.variables, state.optimizer, progress, others),
            needed,
        )
        if needed:
            self.attempt(step, self.checkpoints.finish, needed)

    def _check_lock(self) -> None:
        check = (lambda: None) if self._lock is None else self._lock.check
        devices.check_as_first(check, f"{self.run} is no longer this run's; the first host says why")

    def _write_records(self) -> None:
        self._keep_records()
        self.log.flush()

    # ------------------------------------------------------------------ the end
    def _save_at_the_end(
        self, kind: object, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        """Save what is sound where an error ends training. Raises EndAfterSignal where a signal does."""
        if not isinstance(error, Stopped):
            self._save_after(error)
            return
        try:
            if self.meter.step > self.start:  # in a wait for data, steps are not saved yet
                self.meter.wait()
                self.save(self.meter.step, needed=True)
        except Exception as failure:
            self._save_after(failure)
            raise
        step = self.meter.step
        for callback in self._callbacks:
            callback.after_stop(step)
        self.bar.close()
        say(f"stopped after step {step}; the same command with --workdir {self.run} goes on from there")
        raise EndAfterSignal(128 + error.number) from None

    def _save_after(self, error: BaseException | None) -> None:
        """After an error outside a step. Hosts save together: only what all of them meet lets them."""
        met_by_all_hosts = self.is_alone or isinstance(error, NotFinite | BatchMissing)
        if self._computing or not isinstance(error, Exception) or not met_by_all_hosts:
            return
        with contextlib.suppress(Exception):  # the state is that of the newest step
            self.meter.wait()
        if self.meter.step > self.start:
            self.checkpoints.met_by_all_hosts = error
            with contextlib.suppress(Exception):  # the error itself is what is told
                self.save(self.meter.step, needed=True)
            self.checkpoints.met_by_all_hosts = None

    def end_after_signal(self) -> None:
        """Raise EndAfterSignal where one came after the last step: what was at work has ended."""
        if self.stopped_by:
            raise EndAfterSignal(128 + self.stopped_by)
