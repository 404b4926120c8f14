"""What ccnet_jax takes from the package `kernels`, under the name that the package has here.

In a clone it lies beside `ccnet_jax`, as `kernels`. Installed, it lies inside, as `ccnet_jax.kernels`, since
another published package is called `kernels`. What is asked for is imported then: some of it starts JAX.
"""

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kernels.bench import aot
    from kernels.bench.aot import Report
    from kernels.bench.gpu import GPUS, Gpu
    from kernels.bench.measure import result_head
    from kernels.bench.programs import ending_well, fail
    from kernels.criss_cross import IMPLEMENTATIONS, Backend, criss_cross_attention, device
    from kernels.criss_cross.backend import Arrays, split_packed
    from kernels.whole_file import UMASK, fragments, obstacle, whole_file, write_whole

PACKAGE = "ccnet_jax.kernels" if importlib.util.find_spec("ccnet_jax.kernels") else "kernels"
_NAMES = {
    "bench": ("aot",),
    "bench.aot": ("Report",),
    "bench.gpu": ("GPUS", "Gpu"),
    "bench.measure": ("result_head",),
    "bench.programs": ("ending_well", "fail"),
    "criss_cross": ("IMPLEMENTATIONS", "Backend", "criss_cross_attention", "device"),
    "criss_cross.backend": ("Arrays", "split_packed"),
    "whole_file": ("UMASK", "fragments", "obstacle", "whole_file", "write_whole"),
}
_HOMES = {name: f"{PACKAGE}.{home}" for home, names in _NAMES.items() for name in names}
_MODULES = ("aot", "device")  # names that are modules themselves


def __getattr__(name: str) -> Any:
    """A name of `kernels`."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name in _MODULES:
        return importlib.import_module(f"{_HOMES[name]}.{name}")
    return getattr(importlib.import_module(_HOMES[name]), name)
