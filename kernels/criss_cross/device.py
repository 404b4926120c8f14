"""Which device the op is being compiled for."""

import re
from typing import Any

import jax

# In the names that NVIDIA's driver gives: GPUs older than compute capability 8.0, and those of 9.0.
_OLD = re.compile(r"\b(V100|P100|P40|P4|T4|M60|K80|TITAN|GTX|Quadro RTX|RTX 20\d\d)\b")
_HOPPER = re.compile(r"\b(H100|H200|GH200|H800|H20)\b")


def _device() -> Any:
    """Of the mesh in scope (`jax.set_mesh`), as far as that is known, else JAX's default device."""
    of_mesh = getattr(jax.sharding.get_abstract_mesh(), "abstract_device", None)
    if of_mesh is not None:
        return of_mesh
    default = jax.config.jax_default_device  # type: ignore[attr-defined]  # JAX adds its options at run time
    return default if isinstance(default, jax.Device) else jax.devices(default)[0]


def kind() -> tuple[str, str]:
    """(platform, name) of the device at hand, like ("gpu", "NVIDIA H200") or ("cpu", "cpu")."""
    device = _device()
    return device.platform, device.device_kind


def generation() -> str:
    """ "hopper", or "ampere", which stands for every other GPU too."""
    return "hopper" if _HOPPER.search(kind()[1]) else "ampere"


def no_modern_nvidia_gpu() -> str | None:
    """None on an NVIDIA GPU of compute capability 8.0 or newer; else the name of what is there."""
    platform, name = kind()
    capability = str(getattr(_device(), "compute_capability", ""))  # a mesh's device does not tell
    if platform == "gpu" and re.search("NVIDIA|Tesla", name):
        modern = float(capability) >= 8 if capability else not _OLD.search(name)
        return None if modern else name
    return name if platform == "gpu" else platform.upper()
