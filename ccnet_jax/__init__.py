"""CCNet (criss-cross attention for semantic segmentation, ICCV 2019) in JAX."""

import gc
import importlib
import signal
import sys
from typing import TYPE_CHECKING, Any

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


def _is_program(words: list[str]) -> bool:
    """Whether the words, of `sys.orig_argv`, start one of our programs."""
    module = words[words.index("-m") + 1 :][:1] if "-m" in words else []
    started = module[0].partition(".")[0] == "ccnet_jax" if module else False
    return started or any(word.rpartition("/")[2] == "ccnet" for word in words[:2])


# What programs import takes seconds. Ctrl-C ends them in that time at once: a KeyboardInterrupt would be a
# traceback, or lost in a callback of JAX. The garbage collector would take a fifth of that time to find
# nothing. `command_line.run` goes back to Python's way.
if _is_program(sys.orig_argv):
    gc.disable()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def __getattr__(name: str) -> Any:
    """What is asked for is imported then: JAX, Flax, Orbax and OpenCV take seconds."""
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    if name == "visualize":
        return importlib.import_module("ccnet_jax.weights.visualize")
    raise AttributeError(f"module 'ccnet_jax' has no attribute {name!r}")
