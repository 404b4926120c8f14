"""CCNet (criss-cross attention for semantic segmentation, ICCV 2019) in JAX."""

import importlib
from typing import TYPE_CHECKING, Any

from ccnet_jax.common.signals import begin_program
from ccnet_jax.common.version import __version__

if TYPE_CHECKING:
    from ccnet_jax.common.kernels import criss_cross_attention
    from ccnet_jax.models.ccnet import CCNet
    from ccnet_jax.models.criss_cross import RCCA, CrissCrossAttention
    from ccnet_jax.tasks.semantic_model import Model
    from ccnet_jax.weights import visualize
    from ccnet_jax.weights.inference import load

__all__ = [
    "RCCA",
    "CCNet",
    "CrissCrossAttention",
    "Model",
    "__version__",
    "criss_cross_attention",
    "load",
    "visualize",
]

_MODULES = {
    "RCCA": "ccnet_jax.models.criss_cross",
    "CCNet": "ccnet_jax.models.ccnet",
    "CrissCrossAttention": "ccnet_jax.models.criss_cross",
    "Model": "ccnet_jax.tasks.semantic_model",
    "criss_cross_attention": "ccnet_jax.common.kernels",
    "load": "ccnet_jax.weights.inference",
}


begin_program()


def __getattr__(name: str) -> Any:
    """What is asked for is imported then: JAX, Flax, Orbax and OpenCV take seconds."""
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    if name == "visualize":
        return importlib.import_module("ccnet_jax.weights.visualize")
    raise AttributeError(f"module 'ccnet_jax' has no attribute {name!r}")
