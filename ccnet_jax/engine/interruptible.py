"""Waiting for data in a way that can be ended: a drive that does not answer holds up whoever reads it."""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")

_POLL = 0.2  # seconds between two calls while nothing comes
_END = object()


def interruptible(items: Iterable[T], between: Callable[[], object]) -> Iterator[T]:
    """The items, each made by a thread while this one waits and calls `between`, which may raise.

    After that the thread is left to itself, with the item at which it is.
    """
    remaining = iter(items)
    while True:
        outcome: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()
        threading.Thread(target=_next, args=(remaining, outcome), daemon=True).start()
        while True:
            try:
                item, error = outcome.get(timeout=_POLL)
                break
            except queue.Empty:
                between()
        if error is not None:
            raise error
        if item is _END:
            return
        yield item


def _next(remaining: Iterator[Any], outcome: "queue.SimpleQueue[tuple[Any, BaseException | None]]") -> None:
    try:
        outcome.put((next(remaining, _END), None))
    except BaseException as error:  # for the thread that waits
        outcome.put((None, error))
