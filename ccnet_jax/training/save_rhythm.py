"""When a checkpoint is due."""

import time

RETRY = 60.0  # seconds from a checkpoint that could not be written to the next try


class SaveRhythm:
    """A checkpoint every so many updates and every so many minutes, and again after one that failed.

    Args:
      every: updates from one to the next.
      minutes: and at most so many minutes; None for no such limit.
    """

    def __init__(self, every: int, minutes: float | None):
        self._every, self._minutes = every, minutes
        self._next_try: float | None = None
        self._saved = time.monotonic()

    def note_saved(self) -> None:
        """A checkpoint is being written."""
        self._saved, self._next_try = time.monotonic(), None

    def note_failed(self) -> None:
        """A checkpoint could not be written."""
        self._next_try = time.monotonic() + RETRY

    def is_due(self, step: int) -> bool:
        """Whether one is due after `step`."""
        now = time.monotonic()
        if self._next_try is not None:
            return now >= self._next_try
        late = self._minutes is not None and now - self._saved >= 60 * self._minutes
        return late or step % self._every == 0
