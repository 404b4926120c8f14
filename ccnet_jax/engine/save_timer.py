"""When a checkpoint is due by the clock."""

import time

RETRY = 60.0  # seconds from a checkpoint that could not be written to the next try


class SaveTimer:
    """A checkpoint at the latest after so many minutes, and again after one that failed.

    Args:
      minutes: from one to the next; None for no such limit.
    """

    def __init__(self, minutes: float | None):
        self._minutes = minutes
        self._next_try: float | None = None
        self._saved = time.monotonic()

    def note_saved(self) -> None:
        """A checkpoint is being written."""
        self._saved, self._next_try = time.monotonic(), None

    def note_failed(self) -> None:
        """A checkpoint could not be written."""
        self._next_try = time.monotonic() + RETRY

    def is_late(self) -> bool:
        """Whether one should be written now."""
        now = time.monotonic()
        if self._next_try is not None:
            return now >= self._next_try
        return self._minutes is not None and now - self._saved >= 60 * self._minutes
