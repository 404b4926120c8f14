"""Set before JAX starts: tests run on the CPU, as eight devices, in full float32; shapes are checked.

No test reaches the network, and none that tries passes.
"""

import gc
import logging
import os
import pathlib
import sys
from collections.abc import Iterator
from typing import Any
from unittest import mock

from tests import compiling

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " " + compiling.xla_flags(devices=8)
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import jax
import jaxtyping
import pytest

from tests import shape_checks

# The shapes and dtypes in signatures are checked at every call that a test makes.
jaxtyping.install_import_hook(["kernels", "ccnet_jax"], f"{shape_checks.__name__}.checked")

for setting, value in compiling.SETTINGS.items():  # in this process alone
    jax.config.update(setting, value)
gc.set_threshold(100_000, 50, 100)  # a fifth of tracing would be the collector, looking for what is not there


def pytest_collection_finish() -> None:
    """What was imported stays: the collector need not look through it."""
    gc.freeze()


HERE = (None, "", "localhost", "127.0.0.1", "::1")  # hosts that are this machine
network_attempts: list[str] = []


def refuse_network(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook: looks-up of names and connections fail, and are noted, whoever hides the error."""
    if event not in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "urllib.Request"):
        return
    address = arguments[1] if event == "socket.connect" else arguments[0]
    host = address[0] if isinstance(address, tuple) else address
    if host not in HERE and not (event == "socket.connect" and isinstance(address, str | bytes)):  # or a path
        network_attempts.append(f"{event} {address}")
        raise PermissionError("tests use no network")


sys.addaudithook(refuse_network)


@pytest.fixture(autouse=True)
def no_network() -> Iterator[None]:
    """Every test ends here: nothing that it ran may have tried to reach another machine."""
    yield
    attempts = network_attempts[:]
    network_attempts.clear()
    assert not attempts


@pytest.fixture
def shared_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """For files that train again and again: see `tests/shared_programs.py`."""
    from tests import shared_programs  # which imports what trains: only where it is used

    shared_programs.share(monkeypatch)


@pytest.fixture(scope="session")
def miniatures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pathlib.Path]:
    """{name: folder} of every data set; not to be changed."""
    from tests.miniatures import WRITERS

    root = tmp_path_factory.mktemp("miniatures")
    return {name: write(root / name) for name, write in WRITERS.items()}


@pytest.fixture
def tiny_backbone() -> Iterator[None]:
    """Registers the backbone of `tests/tiny_backbone.py` for this test; `helpers.TINY` chooses it."""
    from ccnet_jax.models.backbones import BACKBONES

    with mock.patch.dict(BACKBONES):
        from tests import tiny_backbone

        BACKBONES["tiny"] = tiny_backbone.BACKBONE  # only the first import does
        yield


@pytest.fixture
def without_shape_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """As users run it: a check of the signatures would refuse wrong arguments before the code's own check."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture
def said(caplog, monkeypatch):
    """A function: the lines of the project's logger so far, which are not printed then."""
    logger = logging.getLogger("ccnet_jax")
    monkeypatch.setattr(logger, "handlers", [caplog.handler])
    monkeypatch.setattr(logger, "propagate", False)  # to caplog's handler once more
    return lambda: caplog.messages
