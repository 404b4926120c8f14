"""Ending training when the user, or the system, asks for it."""

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType

from ccnet_jax.common.log import say
from ccnet_jax.common.signals import STOPPING, leave_closed_terminal
from ccnet_jax.engine.hosts.link import Link

TIMEOUT = 15.0  # seconds in which work that need not be saved may come to an end of its own
_GO_ON = "all is saved, and the same command on all hosts goes on from there"


class Stopped(Exception):
    """A signal has come.

    Attributes:
      number: of the signal.
    """

    def __init__(self, number: int):
        super().__init__(f"signal {number}")
        self.number = number


class StopSignal:
    """Inside `with`, a first signal of `STOPPING` is noted, so that training ends after a step, saved.

    A second one ends the process at once, also where Python is waiting for compiled code, which no handler of
    Python's can interrupt: a thread receives the signals. The process ends with code 128 + the signal's
    number. Only in the main thread of a process. A signal that is ignored, as `nohup` ignores SIGHUP, stays
    ignored, and a second SIGHUP is one: system and shell both send it where a terminal is closed.

    Args:
      link: to the run's other processes, None where there are none.

    Attributes:
      nothing_to_save: while training has made no step that is not saved, what waits for the checkpoints
        that are being written. Then a signal that is not obeyed within `TIMEOUT` seconds ends the process,
        and with it the run's others: compiling and evaluating take minutes. Otherwise None.
    """

    nothing_to_save: Callable[[], object] | None

    def __init__(self, link: Link | None = None):
        self._link = link
        self._received = 0
        self._late_from: float | None = None
        self.nothing_to_save = lambda: None
        self._over = threading.Event()

    def __enter__(self) -> "StopSignal":
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        self._wakeup_before = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        heard = [number for number in STOPPING if signal.getsignal(number) is not signal.SIG_IGN]
        self._before = {number: signal.signal(number, self._note) for number in heard}
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup_before)
        self._over.set()
        self._writer.close()  # ends the thread that reads

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._received = number

    def _watch(self) -> None:
        """Receive the numbers of signals, a byte each."""
        first = True
        with self._reader:
            while data := self._reader.recv(1):
                number = data[0]
                if number not in self._before or (number == signal.SIGHUP and not first):
                    continue
                if number == signal.SIGHUP:
                    leave_closed_terminal()
                if not first:
                    self._end(number)
                first = False
                say("stopping: finishing the current work first; a second signal ends at once")
                threading.Thread(target=self._end_after_timeout, args=(number,), daemon=True).start()
                if self._link is not None:  # the main thread may be in a step that waits for the others
                    self._link.ask(number)

    def _end_after_timeout(self, number: int) -> None:
        """End the process when something that need not be saved has taken long."""
        began = time.monotonic()
        while not self._over.wait(0.1):
            finish = self.nothing_to_save
            if finish is not None and time.monotonic() - began > TIMEOUT:
                with contextlib.suppress(Exception):  # no message is worth more than the end
                    finish()
                if self._link is not None:
                    self._link.fail(
                        f"it was stopped by {signal.Signals(number).name}; {_GO_ON}", 128 + number
                    )
                self._end(number)

    def _end(self, number: int) -> None:
        """At once: locks end with the process, and files are whole or not there."""
        sys.stdout.flush()
        os._exit(128 + number)

    def check(self) -> None:
        """Raise `Stopped` where a signal has come."""
        if self._received:
            raise Stopped(self._received)

    def check_late(self) -> None:
        """Raise `Stopped` where a stop, of this process or all, has been waited for `TIMEOUT` seconds.

        For a wait that may last, in which `agreed_signal` cannot be called. The time is counted from the
        first call that finds a stop.
        """
        number = self._received or (self._link.stop_signal if self._link is not None else 0)
        if number:
            self._late_from = self._late_from or time.monotonic() + TIMEOUT
            if time.monotonic() > self._late_from:
                raise Stopped(number)

    def agreed_signal(self) -> int:
        """The signal's number, 0 for none; the same in all processes, whichever of them received one.

        All processes must call it equally often; it waits for the others only where one has a signal.
        """
        self._late_from = None  # data have come
        return self._received if self._link is None else self._link.stop_by(self._received)
