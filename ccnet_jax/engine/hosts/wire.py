"""Messages between two processes: small dictionaries, each a line of JSON on a connection."""

import contextlib
import json
import socket
import threading
import time
from typing import Any

Message = dict[str, Any]
_LONGEST = 2**20  # bytes of a message; who sends more is no process of ours


class Wire:
    """One end of a connection.

    Args:
      connection: to the other process; the wire closes it.
      timeout: seconds after which sending to a process that does not read is given up.

    Attributes:
      heard: when something came from the other end, by `time.monotonic()`; at first, now.
    """

    def __init__(self, connection: socket.socket, timeout: float = 30):
        connection.settimeout(timeout)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connection = connection
        self._sending = threading.Lock()
        self._begun = b""
        self.heard = time.monotonic()

    def fileno(self) -> int:
        """For selectors."""
        return self._connection.fileno()

    def send(self, message: Message) -> None:
        """Send a message; nothing happens where the other end is gone, which reading will tell."""
        with contextlib.suppress(OSError), self._sending:
            self._connection.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> list[Message] | None:
        """The messages that have come, waiting for bytes; None where the connection has ended.

        A message that is too long, or is none, ends it too.
        """
        try:
            data = self._connection.recv(2**16)
            if not data:
                return None
            self.heard = time.monotonic()
            *whole, self._begun = (self._begun + data).split(b"\n")
            messages = [json.loads(line) for line in whole]
        except (OSError, ValueError):
            return None
        if len(self._begun) > _LONGEST or not all(isinstance(message, dict) for message in messages):
            return None
        return messages

    def close(self) -> None:
        """End the connection."""
        self._connection.close()
