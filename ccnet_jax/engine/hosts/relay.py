"""A way to JAX's service that stays open when the service is gone.

JAX aborts a process in the moment in which its connection to the service ends, that is, when process 0 is
killed: with pages of addresses, and before the process can say what happened. So the other processes connect
through this relay, which does not pass the end on; `Link` sees it, and ends them with a message.
"""

import contextlib
import socket
import threading
import time

_AGAIN = 0.1  # seconds


def open_relay(address: tuple[str, int], timeout: float) -> str:
    """HOST:PORT on this machine that leads to `address`, as long as this process lives.

    Args:
      address: host and port.
      timeout: seconds in which the service must answer at `address` when something connects.
    """
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=_accept, args=(listener, address, timeout), name="relay", daemon=True).start()
    return f"127.0.0.1:{listener.getsockname()[1]}"


def _accept(listener: socket.socket, address: tuple[str, int], timeout: float) -> None:
    while True:
        near, _ = listener.accept()
        threading.Thread(target=_join, args=(near, address, timeout), name="relay", daemon=True).start()


def _join(near: socket.socket, address: tuple[str, int], timeout: float) -> None:
    """Pass on what comes from `near`, and what comes back, until `near` ends."""
    with near:
        try:
            far = _connect(address, timeout)
        except OSError:
            return  # so that JAX tries again
        with far:
            threading.Thread(target=_pass_on, args=(far, near), name="relay", daemon=True).start()
            _pass_on(near, far)
            with contextlib.suppress(OSError):
                far.shutdown(socket.SHUT_RDWR)  # ends the other thread


def _connect(address: tuple[str, int], timeout: float) -> socket.socket:
    """A connection to the service, which may still be starting. Raises OSError."""
    until = time.monotonic() + timeout
    while True:
        try:
            return socket.create_connection(address, timeout=None)
        except OSError:
            if time.monotonic() > until:
                raise
        time.sleep(_AGAIN)


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    """Copy bytes until `source` ends; drop them where `target` is gone."""
    with contextlib.suppress(OSError):
        while data := source.recv(2**16):
            with contextlib.suppress(OSError):
                target.sendall(data)
