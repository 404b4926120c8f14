"""Processes that make batches, watched: one that is killed or stuck is replaced, and the same batches follow.

Why not Grain's own `mp_prefetch`: its workers die of the SIGTERM that a scheduler sends to all processes of a
job, outlive a parent that is killed, and leave batches in shared memory, which a container may have little
of; a frozen one is waited for without end. Here batches come through sockets, which end with their processes.
"""

import atexit
import contextlib
import dataclasses
import io
import multiprocessing
import os
import pickle
import queue
import signal
import socket
import threading
import time
import traceback
import weakref
from collections.abc import Iterator
from multiprocessing import resource_tracker
from typing import Any

import cloudpickle
import cv2
import grain.python as grain
import numpy as np
import psutil

from ccnet_jax.common.errors import UserError
from ccnet_jax.common.log import say
from ccnet_jax.common.signals import STOPPING

STUCK_AFTER = 45.0  # seconds in which a worker does nothing while its batch is waited for
RESTARTS = 5  # of one worker, without a batch in between
_POLL = 1.0  # seconds
_WORKING = 0.02  # seconds of the processor that a worker which is not stuck uses within `STUCK_AFTER`
_END_SECONDS = 5.0  # seconds in which a killed process ends, unless a drive that it reads does not answer

Batch = dict[str, Any]


class Workers(Iterator[Batch]):
    """The batches of a data set in their order, made ahead by processes that end with this one.

    A signal to stop that reaches them is this process's to handle: it ends them.

    Args:
      batches: a data set that gives batch i for the index i, always the same one.
      count: of processes; each makes every `count`-th batch.
    """

    def __init__(self, batches: grain.MapDataset, count: int):
        resource_tracker.ensure_running()  # which lets signals through in the thread that starts it
        self._dataset = cloudpickle.dumps(batches)
        self._workers = [_Worker(self._dataset, first, count) for first in range(count)]
        self._number = 0
        self._end = weakref.finalize(self, _end_all, self._workers)
        _LIVE.add(self)

    def __next__(self) -> Batch:
        """The next batch.

        A worker that was killed, ended or does nothing for `STUCK_AFTER` seconds is replaced; a line says so.

        Raises:
          UserError: that happened more than `RESTARTS` times without a batch.
          Exception: what the data set raised.
        """
        place, restarts = self._number % len(self._workers), 0
        while isinstance(outcome := self._workers[place].outcome(), _Lost):
            self._replace(place, outcome, restarts)
            restarts += 1
        if isinstance(outcome, _Failure):
            raise outcome.error
        self._number += 1
        return outcome

    def close(self) -> None:
        """End the processes."""
        self._end()

    def _replace(self, place: int, lost: "_Lost", restarts: int) -> None:
        """Start a worker in the place of another. Raises UserError after `RESTARTS` of them."""
        count = len(self._workers)
        worker = f"data worker {place + 1} of {count} (process {self._workers[place].pid})"
        if restarts == RESTARTS:
            raise UserError(
                f"{worker} {lost.what}, as did the {RESTARTS} before it that had to make the same batch; "
                f"{lost.remedy}"
            )
        say(f"warning: {worker} {lost.what}; another one makes the same batches", every_host=True)
        self._workers[place].end()
        self._workers[place] = _Worker(self._dataset, self._number, count)


_LIVE: weakref.WeakSet[Workers] = weakref.WeakSet()


@atexit.register  # after multiprocessing's own, so that it runs before that: which waits for all processes
def _close_all() -> None:
    for workers in list(_LIVE):
        workers.close()


def _end_all(workers: "list[_Worker]") -> None:
    for worker in workers:
        worker.kill()
    for worker in workers:
        worker.end()


@dataclasses.dataclass(frozen=True)
class _Lost:
    """A worker that makes no more batches: what happened to it, and what helps."""

    what: str
    remedy: str


@dataclasses.dataclass(frozen=True)
class _Failure:
    """What the data set raised in a worker."""

    error: Exception


class _Worker:
    """A process that makes the batches `first`, `first` + `step`, ...; and a thread that takes them."""

    def __init__(self, dataset: bytes, first: int, step: int):
        self._outcomes: queue.Queue[Batch | _Failure | None] = queue.Queue(1)  # None: it has ended
        self._wanted = True
        try:
            ours, theirs = socket.socketpair()
            with theirs, _held_back(STOPPING):  # the process inherits that, from its first instruction on
                self._process = multiprocessing.get_context("spawn").Process(
                    target=_make_batches, args=(theirs, os.getpid(), first, step), daemon=True
                )
                self._process.start()
        except OSError as error:
            raise UserError(
                f"data worker {first % step + 1} of {step} cannot be started ({error.strerror}); set "
                "--config.data.workers to a smaller number or to 0"
            ) from None
        threading.Thread(target=self._take, args=(ours, dataset), daemon=True).start()

    @property
    def pid(self) -> int | None:
        """Of the process."""
        return self._process.pid

    def outcome(self) -> Batch | _Failure | _Lost:
        """Its next batch, what the data set raised, or why there will be neither.

        Time counts as far as this process runs itself: both may have been stopped for a while.
        """
        used, idle = 0.0, 0.0
        while idle < STUCK_AFTER:
            try:
                outcome = self._outcomes.get(timeout=_POLL)
            except queue.Empty:
                now = self._processor_seconds()
                used, idle = (used, idle + _POLL) if now - used < _WORKING else (now, 0.0)
            else:
                return self._end_error() if outcome is None else outcome
        return _Lost(
            f"has done nothing for {STUCK_AFTER:.0f} s",
            "check that the disk or the network drive with the images answers, or set "
            "--config.data.workers=0",
        )

    def kill(self) -> None:
        """Ask the system to end the process, which has nothing to lose."""
        self._wanted = False
        self._process.kill()

    def end(self) -> None:
        """Kill the process, and wait for it to be gone."""
        self.kill()
        self._process.join(_END_SECONDS)
        with contextlib.suppress(queue.Empty):
            self._outcomes.get_nowait()  # lets the thread go on, and end

    def _take(self, ours: socket.socket, dataset: bytes) -> None:
        """Hand the data set to the process, and take batches from it while they are wanted."""
        try:
            with ours, ours.makefile("rwb") as stream:
                _send(stream, dataset)
                while self._wanted:
                    self._outcomes.put(_receive(stream))
        except (EOFError, OSError, pickle.UnpicklingError):  # the process has ended, perhaps within a batch
            pass
        finally:
            if self._wanted:
                self._outcomes.put(None)

    def _processor_seconds(self) -> float:
        """What the process has used so far."""
        try:
            times = psutil.Process(self._process.pid).cpu_times()
        except psutil.NoSuchProcess:
            return 0.0
        return times.user + times.system

    def _end_error(self) -> _Lost:
        self._process.join(_END_SECONDS)
        code = self._process.exitcode or 0
        less = "set --config.data.workers to a smaller number or to 0"
        if code == -signal.SIGKILL:
            return _Lost(
                "was killed (SIGKILL), as the system does where memory runs out", f"free memory, or {less}"
            )
        if code < 0:
            return _Lost(f"was ended by {signal.Signals(-code).name}", less)
        return _Lost(f"ended with exit code {code}", f"see what it printed above, and {less}")


@contextlib.contextmanager
def _held_back(signals: tuple[signal.Signals, ...]) -> Iterator[None]:
    """Inside, this thread does not receive these signals, and processes that it starts never do."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# ------------------------------------------------------------- in the process


def _make_batches(channel: socket.socket, parent: int, first: int, step: int) -> None:
    """What a worker does: send the batches `first`, `first` + `step`, ... of the data set that it is sent."""
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    cv2.setNumThreads(1)  # as many processes as cores, each on one
    with contextlib.suppress(ConnectionError), channel, channel.makefile("rwb") as stream:
        for outcome in _outcomes(_receive(stream), first, step):
            _send(stream, outcome)


def _end_with(parent: int) -> None:
    """End this process soon after its parent, which cannot end it if it is killed."""
    while os.getppid() == parent:
        time.sleep(_POLL)
    os._exit(1)


def _outcomes(dataset: bytes, first: int, step: int) -> Iterator[Batch | _Failure]:
    try:
        batches = cloudpickle.loads(dataset)[first::step]
        yield from batches.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=2))
    except Exception as error:
        yield _Failure(_portable(error))


def _portable(error: Exception) -> Exception:
    """The error as the other process can have it; what is no user's mistake says where it was raised."""
    if isinstance(error, UserError):
        return UserError(str(error))
    error.add_note(f"in a data worker:\n{traceback.format_exc()}")
    try:
        return pickle.loads(pickle.dumps(error))
    except Exception:  # whatever its class makes of it
        return RuntimeError(f"{type(error).__name__}: {error}\n{traceback.format_exc()}")


# ------------------------------------------------------------ between the two


def _send(stream: io.BufferedRWPair, message: Any) -> None:
    """Write anything that can be pickled; arrays are written from where they are."""
    buffers: list[pickle.PickleBuffer] = []
    head = cloudpickle.dumps(message, protocol=5, buffer_callback=buffers.append)
    arrays = [buffer.raw() for buffer in buffers]
    pickle.dump((head, [array.nbytes for array in arrays]), stream)
    for array in arrays:
        stream.write(array)
    stream.flush()


def _receive(stream: io.BufferedRWPair) -> Any:
    """What `_send` wrote; arrays are read to where they stay. Raises EOFError where it is cut off."""
    head, sizes = pickle.load(stream)
    arrays = [np.empty(size, np.uint8).data for size in sizes]
    for array in arrays:
        if stream.readinto(array) < len(array):
            raise EOFError
    return pickle.loads(head, buffers=arrays)
