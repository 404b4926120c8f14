"""GPU kernels, one folder an op. Nothing here imports `ccnet_jax`."""

import importlib
from typing import Any

__all__ = ["criss_cross_attention", "packed_criss_cross_attention"]


def __getattr__(name: str) -> Any:
    """Import the op when it is asked for: programs that only write files need not wait for JAX."""
    if name in __all__:
        return getattr(importlib.import_module(f"{__name__}.criss_cross"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
