"""The connections between the processes of a run: signs of life, losses, the step to stop at.

Tried instead, with two processes of JAX 0.10 on CPUs and a timeout of 10 s: JAX's own heartbeats
(`heartbeat_timeout_seconds`). A process whose partner was killed or frozen ended after 9.7 to 9.9 s, killed
by SIGABRT with a page of C++ addresses and no word of who was lost; here a killed one is told at once. With
`jax_enable_recoverability` it does not end: it gets Gloo's error where it computes together with others;
where it does not, it waits in the barrier at the end.
"""

import contextlib
import multiprocessing
import os
import selectors
import sys
import threading
import time
from collections.abc import Callable
from typing import NoReturn

from ccnet_jax.common.errors import HostLost
from ccnet_jax.engine.hosts.agreement import Agreement, Poll
from ccnet_jax.engine.hosts.meeting import Peer
from ccnet_jax.engine.hosts.wire import Message

_BEAT = 5  # seconds from one sign of life to the next, at most
_LAST_SECONDS = 5  # seconds in which the others read why a process ends
_AGAIN = "start the same command again on all hosts, and it goes on from the last checkpoint"


def end_process(message: str, code: int) -> None:
    """Print the message and end this process now, whatever its other threads wait for."""
    with contextlib.suppress(Exception):  # where it was started without an output
        line_begins = "\n" if sys.stderr.isatty() else ""  # where a progress bar may stand
        print(f"{line_begins}error: {message}", file=sys.stderr)
    leave(code)


def leave(code: int) -> NoReturn:
    """End this process without its exit functions: JAX's waits for processes that are gone, and aborts."""
    for child in multiprocessing.active_children():
        child.kill()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # there is none, or nobody reads it
            stream.flush()
    os._exit(code)


class Link:
    """Watches the other processes in a thread of its own.

    When one is lost, this process ends with one message and `HostLost`'s exit code; when one fails, with its
    message and its code. Process 0 is connected with all and tells them; the others with process 0.

    Args:
      process: number of this process.
      peers: from `meet`.
      timeout: seconds after which a process that says nothing is lost.
      end: called with the message and the exit code, in the thread.
    """

    def __init__(
        self,
        process: int,
        peers: list[Peer],
        timeout: float,
        end: Callable[[str, int], None] = end_process,
    ):
        self._process, self._peers, self._timeout, self._end = process, list(peers), timeout, end
        self._beat = min(_BEAT, timeout / 4)
        self._open = {peer.process: peer for peer in peers}
        self._finished: set[int] = set()  # processes whose connection may end
        self._failing = False
        self._stood_still, self._woke = 0.0, float("-inf")  # for how many seconds, until when
        self._verdict: tuple[str, int] | None = None
        self._handling = threading.RLock()
        self._agreement = Agreement(self._tell)
        self._poll = Poll(len(peers) + 1, self._tell_all)
        self._thread = threading.Thread(target=self._watch, name="hosts", daemon=True)

    def start(self) -> None:
        """Begin to watch, until the process ends: others may need its answers to the last."""
        self._thread.start()

    def stop_by(self, received: int) -> int:
        """`Agreement.stop_by`: the signal by which all processes stop now, 0 for going on."""
        return self._agreement.stop_by(received)

    def ask(self, received: int) -> None:
        """`Agreement.ask`: let all stop by a signal."""
        self._agreement.ask(received)

    @property
    def stop_signal(self) -> int:
        """The number of the signal by which all processes are to stop, 0 while there is none."""
        return self._agreement.signal

    def finish(self) -> None:
        """Say that this process has done all its work, so that the end of its connection is no loss."""
        message: Message = {"finished": self._agreement.count}
        if self._process == 0:
            self._tell_all(message)
        else:
            self._tell(message)

    def fail(self, message: str, code: int) -> None:
        """Say why this process ends early, with which exit code; the others end with it."""
        with self._handling:
            self._failing = self._verdict is None
        if not self._failing:
            self._thread.join()  # which ends the process, since another one failed before
            return
        self._tell({"failed": message, "code": code})
        if self._process == 0:
            until = time.monotonic() + _LAST_SECONDS
            while self._open and time.monotonic() < until:
                time.sleep(0.05)

    def wait_for_loss(self, seconds: float | None = None) -> None:
        """Wait for this process to be ended because another one is lost or failed; return if none is."""
        self._thread.join(seconds)
        if self._failing:  # another thread has told the others, whose end was met here, and ends this process
            time.sleep(2 * _LAST_SECONDS)

    # -------------------------------------------------------------- messages
    def _tell(self, message: Message) -> None:
        """To process 0."""
        if self._process == 0:
            self._handle(0, message)
        else:
            self._peers[0].wire.send(message)

    def _tell_all(self, message: Message) -> None:
        """From process 0 to all, itself included."""
        for peer in self._peers:
            peer.wire.send(message)
        self._handle(0, message)

    def _handle(self, process: int, message: Message) -> None:
        """Do what a message from a process says."""
        with self._handling:
            match message:
                case {"ask": int(received)}:
                    self._poll.ask(received)
                case {"hold": True}:
                    self._agreement.hold()
                case {"count": int(count)}:
                    self._poll.count(process, count)
                case {"last": int(last), "signal": int(received)}:
                    self._agreement.decide(last, received)
                case {"finished": int(count)}:
                    self._finished.add(process)
                    if self._process == 0:
                        self._poll.count(process, count)
                case {"failed": str(error), "code": int(code)}:
                    self._tell_all({"end": f"{self._name(process)} has ended: {error}", "code": code})
                case {"end": str(error), "code": int(code)}:
                    self._verdict = self._verdict or (error, code)

    def _name(self, process: int) -> str:
        return str(next((peer for peer in self._peers if peer.process == process), f"process {process}"))

    # -------------------------------------------------------------- watching
    def _watch(self) -> None:
        """Read what comes, send signs of life, and notice what does not come."""
        with selectors.DefaultSelector() as selector:
            for peer in self._peers:
                selector.register(peer.wire, selectors.EVENT_READ, peer)
            looked = beaten = time.monotonic()
            until = None  # when this process ends, though others have not read why
            while self._open:
                ready = selector.select(self._beat)
                now = time.monotonic()
                if now - looked > 2 * self._beat:  # this process itself stood still
                    self._restart_timeouts(now)
                    self._stood_still, self._woke = now - looked, now
                looked = now
                for key, _ in ready:
                    self._read(key.data, selector)
                if now - beaten >= self._beat:
                    beaten = now
                    for peer in self._peers:
                        peer.wire.send({"alive": True})
                self._check_timeouts(now)
                if self._verdict is not None and not self._failing:
                    until = until or now + (_LAST_SECONDS if self._process == 0 else 0)
                    if now >= until:
                        break
        if self._verdict is not None and not self._failing:
            self._end(*self._verdict)

    def _read(self, peer: Peer, selector: selectors.BaseSelector) -> None:
        messages = peer.wire.receive()
        if messages is None:
            selector.unregister(peer.wire)
            peer.wire.close()
            self._open.pop(peer.process, None)
            if peer.process not in self._finished:
                self._lose(peer, "its connection has ended, so it was killed or its machine stopped")
        for message in messages or ():
            self._handle(peer.process, message)

    def _check_timeouts(self, now: float) -> None:
        for peer in list(self._open.values()):
            if now - peer.wire.heard > self._timeout:
                del self._open[peer.process]  # nobody waits for it to hang up
                seconds = f"{self._timeout:g} s (config.hosts.timeout_seconds)"
                self._lose(peer, f"nothing was heard of it for {seconds}")

    def _restart_timeouts(self, now: float) -> None:
        for peer in self._open.values():
            peer.wire.heard = now

    def _lose(self, peer: Peer, reason: str) -> None:
        """Let all end, since a process is lost; or this one alone, which the others did not wait for."""
        with self._handling:
            if self._verdict is None and not self._failing:
                words = f"{peer} is lost: {reason}"
                if self._was_given_up():
                    words = (
                        f"process {self._process}, this one, stood still for {self._stood_still:.0f} s, and "
                        f"the others did not wait for it (config.hosts.timeout_seconds={self._timeout:g})"
                    )
                message = {"end": f"{words}; {_AGAIN}", "code": HostLost.exit_code}
                (self._tell_all if self._process == 0 else lambda m: self._handle(0, m))(message)

    def _was_given_up(self) -> bool:
        """Whether this process has just woken after so long that the others count it as lost."""
        awake = time.monotonic() - self._woke
        return self._stood_still > self._timeout - 2 * self._beat and awake < self._timeout
