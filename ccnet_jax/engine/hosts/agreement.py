"""Stopping after the same step in all processes, whichever of them received a signal.

Each process counts how often it has asked whether to stop. All ask at the same places, and none waits for an
answer. Only when one of them has a signal do all hold at their next question and tell their counts to process
0, which names the first count that none has reached.

Tried instead: `multihost_utils.reached_preemption_sync_point`, which stops two processes at one step as well,
in 12 us a question. It hears SIGTERM alone and takes that signal for itself: Ctrl-C, the second signal that
ends a process at once, and a process that gets no data any more would need this beside it.
"""

import threading
from collections.abc import Callable

from ccnet_jax.engine.hosts.wire import Message

Tell = Callable[[Message], None]


class Agreement:
    """One process's part.

    Args:
      tell: sends a message to process 0.
    """

    def __init__(self, tell: Tell):
        self._tell = tell
        self._changed = threading.Condition()
        self._count, self._holding, self._asked = 0, False, False
        self._last: int | None = None
        self._signal = 0

    @property
    def count(self) -> int:
        """How often `stop_by` was called."""
        return self._count

    @property
    def signal(self) -> int:
        """The number of the signal by which all processes are to stop, 0 while there is none."""
        return self._signal

    def stop_by(self, received: int) -> int:
        """The number of the signal by which all processes stop now, 0 for going on.

        Every process calls it equally often. `received` is the signal that this one has, 0 for none.
        """
        if received:
            self.ask(received)
        with self._changed:
            self._changed.wait_for(lambda: not self._holding)
            self._count += 1
            return self._signal if self._last is not None and self._count >= self._last else 0

    def ask(self, received: int) -> None:
        """Let all stop by a signal that this process has; a thread may call it, while `stop_by` cannot be."""
        with self._changed:
            if self._asked or self._last is not None:
                return
            self._asked = self._holding = True
        self._tell({"ask": received})

    def hold(self) -> None:
        """Let `stop_by` wait, and tell process 0 how often it was called."""
        with self._changed:
            self._holding = True
            count = self._count
        self._tell({"count": count})

    def decide(self, last: int, received: int) -> None:
        """Stop at call number `last`, or at the first after it."""
        with self._changed:
            self._last, self._signal, self._holding = last, received, False
            self._changed.notify_all()


class Poll:
    """Process 0's part.

    Args:
      processes: number of processes.
      tell_all: sends a message to all, process 0 too.
    """

    def __init__(self, processes: int, tell_all: Tell):
        self._processes, self._tell_all = processes, tell_all
        self._counts: dict[int, int] = {}
        self._signal, self._decided = 0, False

    def ask(self, received: int) -> None:
        """A process has a signal; only the first counts."""
        if not self._signal:
            self._signal = received
            self._tell_all({"hold": True})

    def count(self, process: int, count: int) -> None:
        """A process holds at its call number `count`, or has ended after so many."""
        self._counts[process] = count
        if self._signal and not self._decided and len(self._counts) == self._processes:
            self._decided = True
            self._tell_all({"last": max(self._counts.values()) + 1, "signal": self._signal})
