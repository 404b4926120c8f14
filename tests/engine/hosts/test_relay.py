"""The way to JAX's service: it passes bytes both ways, and not the end of the service."""

import socket
import threading

from ccnet_jax.engine.hosts.relay import open_relay
from tests.helpers import free_port


def test_bytes_are_passed_on_and_the_end_of_the_service_is_not():
    port = free_port()
    host, _, near_port = open_relay(("127.0.0.1", port), 20).rpartition(":")
    with socket.create_connection((host, int(near_port)), timeout=20) as near:
        with socket.create_server(("127.0.0.1", port)) as server:  # which starts later than its caller
            far, _ = server.accept()
        with far:
            data = bytes(range(256)) * 4096
            thread = threading.Thread(target=far.sendall, args=(data,))
            thread.start()
            assert received(near, len(data)) == data
            thread.join()
            near.sendall(b"back")
            assert received(far, 4) == b"back"
        near.settimeout(0.5)
        near.sendall(b"is anybody there")
        try:
            assert near.recv(1) is None
        except TimeoutError:
            near.sendall(b"nobody")


def received(connection, count):
    data = b""
    while len(data) < count:
        data += connection.recv(2**16)
    return data
