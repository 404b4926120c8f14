"""Which device the op is being compiled for."""

import re

import jax

# In the names that NVIDIA's driver gives: GPUs older than compute capability 8.0, and those of 9.0.
_OLD = re.compile(r"\b(V100|P100|P40|P4|T4|M60|K80|TITAN|GTX|Quadro RTX|RTX 20\d\d)\b")
_HOPPER = re.compile(r"\b(H100|H200|GH200|H800|H20)\b")


def kind() -> tuple[str, str]:
    """(platform, name) of the device at hand, like ("gpu", "NVIDIA H200") or ("cpu", "cpu").

    That is the device of the mesh in scope (`jax.set_mesh`) if there is one, else JAX's default device.
    """
    of_mesh = getattr(jax.sharding.get_abstract_mesh(), "abstract_device", None)
    if of_mesh is not None:
        return of_mesh.platform, of_mesh.device_kind
    default = jax.config.jax_default_device
    device = default if isinstance(default, jax.Device) else jax.devices(default)[0]
    return device.platform, device.device_kind


def generation() -> str:
    """ "hopper", or "ampere", which stands for every other GPU too."""
    return "hopper" if _HOPPER.search(kind()[1]) else "ampere"


def no_modern_nvidia_gpu() -> str | None:
    """None on an NVIDIA GPU of compute capability 8.0 or newer; else the name of what is there."""
    platform, name = kind()
    if platform == "gpu" and re.search("NVIDIA|Tesla", name) and not _OLD.search(name):
        return None
    return name if platform == "gpu" else platform.upper()
