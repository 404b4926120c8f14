import os

import jax
import pytest

from ccnet_jax.common import devices


@pytest.fixture(autouse=True)
def anew():
    devices.compiler_options.cache_clear()
    yield
    devices.compiler_options.cache_clear()


def test_this_version_knows_the_compilers_options():
    flags = os.environ["XLA_FLAGS"]
    options = devices.compiler_options()
    assert list(options) == ["xla_cpu_experimental_ynn_fusion_type"]
    assert jax.jit(lambda x: x + 1, compiler_options=options)(1.0) == 2
    assert os.environ["XLA_FLAGS"] == flags  # the caller's own programs are compiled as before


def test_a_version_that_does_not_know_an_option_goes_without(monkeypatch):
    monkeypatch.setattr(devices, "CPU_OPTIONS", {"xla_cpu_no_such_option": "1"})
    assert devices.compiler_options() == {}


def test_a_gpu_needs_no_options(monkeypatch):
    class Gpu:
        platform = "gpu"

    monkeypatch.setattr(jax, "devices", lambda: [Gpu()])
    assert devices.compiler_options() == {}
