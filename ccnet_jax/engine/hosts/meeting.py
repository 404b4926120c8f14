"""How the processes of a run meet: all of them come to process 0, which lets them go on together.

They meet at the port that JAX's own service takes afterwards, so that a firewall needs one opening.
"""

import contextlib
import dataclasses
import os
import selectors
import socket
import time
from collections.abc import Iterator, Mapping

from ccnet_jax.common.errors import HostLost, UserError
from ccnet_jax.engine.hosts.place import Place
from ccnet_jax.engine.hosts.wire import Message, Wire

_AGAIN = 0.3  # seconds from one attempt to connect to the next
_ANSWER = 30  # seconds beyond the deadline in which process 0 must say that others are missing
_NAMED = 8  # processes that a message lists


@dataclasses.dataclass(frozen=True)
class Peer:
    """Another process.

    Attributes:
      process: its number.
      host: the name of its machine.
      wire: the connection to it.
    """

    process: int
    host: str
    wire: Wire

    def __str__(self) -> str:
        return f"process {self.process} ({self.host})"


def meet(place: Place, wait: float, shared: Mapping[str, str]) -> list[Peer]:
    """The processes that this one stays connected with: process 0 with all others, the others with process 0.

    Args:
      place: of this process.
      wait: seconds.
      shared: what must be the same in all processes, by name.

    Raises:
      HostLost: not all have come in time, or process 0 does not answer.
      UserError: processes differ in `shared` or in their number, or two have the same number.
    """
    deadline = time.monotonic() + wait
    if place.process == 0:
        return _Gathering(place, wait, shared).until(deadline)
    return [_come(place, wait, deadline, shared)]


class _Gathering:
    """Process 0 waiting for the others."""

    def __init__(self, place: Place, wait: float, shared: Mapping[str, str]):
        self._place, self._wait, self._shared = place, wait, dict(shared)
        self._come: dict[int, Peer] = {}

    def until(self, deadline: float) -> list[Peer]:
        """All others, when the last has come."""
        with _listener(self._place) as listener, selectors.DefaultSelector() as selector:
            selector.register(listener, selectors.EVENT_READ, None)
            while len(self._come) < self._place.processes - 1:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise self._refuse_all(HostLost(self._missing_processes()))
                for key, _ in selector.select(left):
                    if key.data is None:
                        self._open(listener, selector)
                    else:
                        self._read(key.data, selector)
            for refused in self._refused_connections(selector):
                refused.close()
        for peer in self._come.values():
            peer.wire.send({"host": socket.gethostname()})
        return list(self._come.values())

    def _refused_connections(self, selector: selectors.BaseSelector) -> list[Wire]:
        ours = [None, *(peer.wire for peer in self._come.values())]
        return [key.data for key in selector.get_map().values() if key.data not in ours]

    def _open(self, listener: socket.socket, selector: selectors.BaseSelector) -> None:
        with contextlib.suppress(OSError):  # of a caller that has hung up already
            wire = Wire(listener.accept()[0])
            selector.register(wire, selectors.EVENT_READ, wire)

    def _read(self, wire: Wire, selector: selectors.BaseSelector) -> None:
        messages = wire.receive()
        if messages is None:  # a refused, or a process that has ended, which may be started again
            self._come = {number: peer for number, peer in self._come.items() if peer.wire is not wire}
            selector.unregister(wire)
            wire.close()
        for message in messages or ():
            self._welcome(wire, message)

    def _welcome(self, wire: Wire, message: Message) -> None:
        match message:
            case {"process": int(number), "processes": int(count), "host": str(host), "shared": dict(shared)}:
                peer = Peer(number, host, wire)
            case _:
                return  # a refused
        if mistake := self._mistake_of(peer, count, shared):
            raise self._refuse_all(UserError(mistake), peer)
        self._come[number] = peer

    def _mistake_of(self, peer: Peer, processes: int, shared: Mapping[str, str]) -> str | None:
        """Why the process cannot take part; None where it can."""
        if processes != self._place.processes:
            expected = f"{processes} processes, process 0 {self._place.processes}"
            return f"{peer} expects {expected}; give all the same config.hosts.processes"
        if peer.process in self._come or not 0 < peer.process < processes:
            before = self._come.get(peer.process, "process 0")
            return f"{peer} has the number of {before}; give each process its own config.hosts.process"
        for name in sorted({*shared, *self._shared}):
            theirs, ours = shared.get(name), self._shared.get(name)
            if theirs != ours:
                return f"{peer} has {name}={theirs} and process 0 has {ours}; start all with the same"
        return None

    def _refuse_all(self, error: UserError, *more: Peer) -> UserError:
        """The error, after all that have come were told it."""
        for peer in (*self._come.values(), *more):
            peer.wire.send({"refused": str(error), "lost": isinstance(error, HostLost)})
            peer.wire.close()
        return error

    def _missing_processes(self) -> str:
        missing = [number for number in range(1, self._place.processes) if number not in self._come]
        names = [f"process {number}" for number in missing[:_NAMED]]
        if len(missing) > _NAMED:
            names.append(f"{len(missing) - _NAMED} more")
        listed = " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
        return (
            f"{listed} of {self._place.processes} did not come to {self._place.coordinator} within "
            f"{self._wait:g} s (config.hosts.wait_seconds); start all processes, each with its number, and "
            "see that their machines reach this address"
        )


@contextlib.contextmanager
def _listener(place: Place) -> Iterator[socket.socket]:
    """Process 0's open port, on all of its addresses."""
    ipv6 = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if ipv6 else socket.AF_INET
    _, port = place.address
    try:
        # many may come at once
        listener = socket.create_server(
            ("", port), family=family, dualstack_ipv6=ipv6, backlog=place.processes + 16
        )
    except OSError as error:
        raise UserError(
            f"process 0 cannot wait at port {port} ({os.strerror(error.errno or 0)}); choose another one in "
            "config.hosts.coordinator"
        ) from None
    with listener:
        yield listener


def _come(place: Place, wait: float, deadline: float, shared: Mapping[str, str]) -> Peer:
    """Process 0, when it lets this process go on; it may be started later than this one, or again."""
    hello = {"process": place.process, "processes": place.processes, "host": socket.gethostname()}
    while True:
        left = max(deadline - time.monotonic(), _AGAIN)
        try:
            wire = Wire(socket.create_connection(place.address, timeout=left))
        except OSError as error:
            reason = error.strerror or str(error)
        else:
            wire.send({**hello, "shared": dict(shared)})
            match _answer(wire, deadline + _ANSWER):
                case {"host": str(host)}:
                    return Peer(0, host, wire)
                case {"refused": str(message), "lost": bool(lost)}:
                    raise (HostLost if lost else UserError)(message)
            wire.close()
            reason = "the connection ended"  # of a process that was killed, or of an earlier run's
        if time.monotonic() + _AGAIN > deadline:
            raise HostLost(
                f"process 0 did not answer at {place.coordinator} within {wait:g} s ({reason}; "
                "config.hosts.wait_seconds): start it, and see that config.hosts.coordinator is its address"
            )
        time.sleep(_AGAIN)


def _answer(wire: Wire, deadline: float) -> Message | None:
    """The first message that comes; None where none does."""
    messages: list[Message] | None = []
    with selectors.DefaultSelector() as selector:
        selector.register(wire, selectors.EVENT_READ)
        while messages == [] and selector.select(max(deadline - time.monotonic(), 0)):
            messages = wire.receive()
    return messages[0] if messages else None
