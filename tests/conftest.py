"""Set before JAX starts: tests run on the CPU, as eight devices, in full float32; shapes are checked."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import jax
import jaxtyping
import pytest

from tests import shape_checks

# The shapes and dtypes in signatures are checked at every call that a test makes.
jaxtyping.install_import_hook(["kernels", "ccnet_jax"], f"{shape_checks.__name__}.checked")

# Tests compile many small programs and run each once or twice: optimizing them would take most of the time.
jax.config.update("jax_disable_most_optimizations", True)
# What is compiled once is kept for the next test and the next run.
jax.config.update(
    "jax_compilation_cache_dir", os.path.join(os.path.dirname(__file__), "..", ".pytest_cache", "jax")
)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


@pytest.fixture
def without_shape_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """As users run it: a check of the signatures would refuse wrong arguments before the code's own check."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
