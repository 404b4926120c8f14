"""Ending training after a step when the user, or the system, asks for it."""

import signal
from types import FrameType

from ccnet_jax.hosts.link import Link


class StopSignal:
    """Inside `with`, a first Ctrl-C or SIGTERM is noted, so that training ends after a step, saved.

    A second one ends the process at once.

    Args:
      link: to the run's other processes, None where there are none.
    """

    def __init__(self, link: Link | None = None):
        self._link = link

    def __enter__(self) -> "StopSignal":
        self._received = 0
        self._before = {
            number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)
        }
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._received = number
        for other in self._before:
            signal.signal(other, signal.SIG_DFL)

    def agreed(self) -> int:
        """The signal's number, 0 for none; the same in all processes, whichever of them received one.

        All processes must call it equally often; it waits for the others only where one has a signal.
        """
        return self._received if self._link is None else self._link.stop_by(self._received)
