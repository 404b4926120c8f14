"""Who is at work in a folder, and the signs of life by which others see that it still is."""

import contextlib
import dataclasses
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator

from ccnet_jax.common.errors import UserError
from ccnet_jax.common.log import say

HEARTBEAT = 30.0  # seconds between two signs of life
DEAD_AFTER = 120.0  # seconds without one, after which a holder counts as dead


@dataclasses.dataclass(frozen=True)
class Holder:
    """A process that works in a folder, as a lock says it.

    Attributes:
      host, process: where it runs, and its number there.
      since: when it began, in words.
      beat: time of its last sign of life in seconds, where the lock itself says it.
    """

    host: str
    process: int
    since: str
    beat: float = dataclasses.field(default=0.0, compare=False)

    @classmethod
    def here(cls) -> "Holder":
        """This process."""
        return cls(socket.gethostname(), os.getpid(), time.strftime("%Y-%m-%d %H:%M:%S %z"))

    @classmethod
    def read(cls, text: str | bytes) -> "Holder | None":
        """The holder that a lock's text names; None where it names none, or is being written."""
        try:
            told = json.loads(text)
            host, process, since = str(told["host"]), int(told["process"]), str(told["since"])
            return cls(host, process, since, float(told.get("beat", 0))) if 0 < process < 2**31 else None
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            return None

    def as_text(self) -> str:
        """What a lock says; `beat` is now."""
        return json.dumps(dataclasses.asdict(self) | {"beat": time.time()}) + "\n"

    @property
    def is_of_this_host(self) -> bool:
        """Whether it runs, or ran, on this machine."""
        return self.host == socket.gethostname()

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}, started {self.since},"


def in_use_error(holder: Holder | None, place: object, flag: str, age: float | None = None) -> UserError:
    """The error of a start in a folder in which another process works.

    Args:
      holder: None where its name cannot be read.
      place: the folder.
      flag: which chooses another folder.
      age: seconds since its last sign of life, where nothing else says whether it lives.
    """
    who = f"{holder or 'another process'} is at work in {place}"
    remedy = f"let it end, stop it, or choose another {flag}"
    if age is None:
        return UserError(f"{who}; {remedy}")
    return UserError(
        f"{who}: its last sign of life is {age:.0f} s old; {remedy}, or wait "
        f"{DEAD_AFTER:.0f} s if it has died"
    )


def seconds_since(moment: float) -> float:
    """Seconds since a time; a clock that went back makes it none."""
    return max(0.0, time.time() - moment)


@contextlib.contextmanager
def repeat(seconds: float, call: Callable[[], object]) -> Iterator[None]:
    """Inside, a thread calls `call` every so many seconds; the first of several UserErrors is a warning.

    The end of the block waits for a call that is under way.
    """
    ended = threading.Event()

    def run() -> None:
        failed = False
        while not ended.wait(seconds):
            try:
                call()
                failed = False
            except UserError as error:
                if not failed:
                    say(f"warning: {error}; it is tried again every {seconds:.0f} s")
                failed = True

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
