"""CCNet (criss-cross attention for semantic segmentation, ICCV 2019) in JAX."""

import importlib
from typing import Any

from ccnet_jax.models.ccnet import CCNet
from ccnet_jax.models.criss_cross import RCCA, CrissCrossAttention
from ccnet_jax.version import __version__

__all__ = ["RCCA", "CCNet", "CrissCrossAttention", "Model", "__version__", "load", "visualize"]


def __getattr__(name: str) -> Any:
    """What needs Orbax and OpenCV is imported when it is asked for."""
    if name in ("Model", "load"):
        return getattr(importlib.import_module("ccnet_jax.inference"), name)
    if name == "visualize":
        return importlib.import_module("ccnet_jax.visualize")
    raise AttributeError(f"module 'ccnet_jax' has no attribute {name!r}")
