"""What SECURITY.md promises beyond single files: no pickle, no network; and each promise has its test."""

import importlib.metadata
import pickle
import re
import socket
import sys

import numpy as np
import packaging.requirements
import packaging.utils
import pytest
import safetensors.numpy

import ccnet_jax
from ccnet_jax import prepare
from ccnet_jax.common.errors import UserError
from ccnet_jax.data import pipeline
from ccnet_jax.data.config import DataConfig
from ccnet_jax.data.datasets import coco
from ccnet_jax.data.sources import Location
from ccnet_jax.weights import tensor_files
from tests import conftest, helpers
from tests.miniatures import write_camvid, write_coco

PAGE = (helpers.ROOT / "SECURITY.md").read_text()
found: list[str] = []  # what pickles asked for
noting = False


def note_pickles(event, arguments):
    if noting and event == "pickle.find_class":
        found.append(".".join(arguments))


sys.addaudithook(note_pickles)


@pytest.fixture
def pickles(monkeypatch):
    found.clear()
    monkeypatch.setattr(sys.modules[__name__], "noting", True)
    return found


def requirements(path):
    lines = [line.partition("#")[0].strip() for line in path.read_text().splitlines()]
    return [packaging.requirements.Requirement(line) for line in lines if line]


def test_the_lock_has_a_hash_of_each_requirement():
    """And is what requirements.txt allows."""
    lock = {}
    for entry in (helpers.ROOT / "requirements-lock.txt").read_text().replace("\\\n", " ").splitlines():
        if not entry.startswith("#"):
            pinned = packaging.requirements.Requirement(entry.partition(" --hash")[0])
            lock.setdefault(packaging.utils.canonicalize_name(pinned.name), []).append(pinned)
            assert "--hash=sha256:" in entry
    for wanted in requirements(helpers.ROOT / "requirements.txt"):
        for pinned in lock[packaging.utils.canonicalize_name(wanted.name)]:
            (version,) = pinned.specifier
            assert version.operator == "=="
            assert wanted.specifier.contains(version.version), wanted


def test_no_pytorch_whose_restricted_reader_can_be_bypassed(tmp_path, monkeypatch):
    (needed,) = requirements(helpers.ROOT / "requirements-torch.txt")
    assert needed.specifier.contains("2.10.0")
    assert not needed.specifier.contains("2.9.1")
    path = tmp_path / "weights.pth"
    path.write_bytes(b"PK")
    for version in ("2.9.1", "2.9.1+cpu", "1.13.0"):
        monkeypatch.setattr(importlib.metadata, "version", lambda _, version=version: version)
        with pytest.raises(UserError, match=r"in spite of weights_only=True; install torch 2\.10"):
            tensor_files._check_torch(path)
    for version in ("2.10.0", "2.10.0a0+git", "3.0"):
        monkeypatch.setattr(importlib.metadata, "version", lambda _, version=version: version)
        tensor_files._check_torch(path)


def test_nothing_that_is_read_is_unpickled(tmp_path, pickles):
    """Runs, checkpoints, weights, folders, annotations, prepared data sets and tiles."""
    data = write_camvid(tmp_path / "camvid", images=1)
    config = helpers.load_config("demo", data__name="camvid", data__dir=str(data))
    source = pipeline.open_source(config.data, "val")
    helpers.write_run(tmp_path / "run", config, source)
    safetensors.numpy.save_file({"a": np.ones(3, np.float32)}, tmp_path / "w.safetensors")
    write_coco(tmp_path / "coco", number=1)
    tilings = {"files": None, "tiles": prepare.Tiling()}
    for name, tiling in tilings.items():
        prepare.prepare("camvid", Location(dir=str(data)), str(tmp_path / name), tiling=tiling)
    pickles.clear()  # what was written is none of these

    ccnet_jax.load(tmp_path / "run")
    assert tensor_files.read(tmp_path / "w.safetensors").tensors["a"].sum() == 3
    assert len(pipeline.open_source(config.data, "val")[0]) == 2
    assert coco.open_split(Location(dir=str(tmp_path / "coco")), "val2017").objects(0)
    for name in tilings:
        assert pipeline.open_source(
            DataConfig(name="camvid", source="tfds", dir=str(tmp_path / name)), "val"
        )[0]
    assert pickles == []
    pickle.loads(pickle.dumps(tilings["tiles"]))  # the hook does see them
    assert pickles == ["ccnet_jax.prepare.Tiling"]


def test_a_test_that_reaches_for_the_network_fails():
    """The guard of all tests, which run whatever the programs do in this process."""
    for reach in (
        lambda: socket.create_connection(("192.0.2.1", 80), 0.01),  # an address that is nobody's
        lambda: socket.getaddrinfo("example.invalid", 80),
        lambda: socket.socket().connect(("192.0.2.1", 80)),
    ):
        with pytest.raises(PermissionError):
            reach()
    assert len(conftest.network_attempts) >= 3
    conftest.network_attempts.clear()
    socket.getaddrinfo("localhost", 80)
    assert conftest.network_attempts == []


def test_every_promise_names_its_tests_and_they_exist():
    rows = re.findall(r"^\| (.+?) \| (.+?) \|$", PAGE, re.MULTILINE)[1:]  # below the head
    assert len(rows) >= 10
    for promise, tests in rows:
        names = re.findall(r"`(tests/[\w/.]+)::(\w+)`", tests)
        assert names, promise
        for path, name in names:
            assert f"def {name}(" in (helpers.ROOT / path).read_text(), f"{path}::{name}"
