"""Builds the wheel; pyproject.toml has all that is the same for a clone.

A clone has `kernels` and `configs` beside `ccnet_jax`. Installed, they lie inside it, as `ccnet_jax.kernels`
and `ccnet_jax.configs`: another published package is called `kernels`. No file is changed for that: `kernels`
imports itself relatively, and `ccnet_jax` takes it from `ccnet_jax.common.kernels`, which knows both names.
"""

import pathlib
import re
import sys

from setuptools import setup

INSIDE = {"ccnet_jax.kernels": "kernels", "ccnet_jax.configs": "configs"}
PACKAGES = ["ccnet_jax", "kernels", "configs"]


def packages(folder):
    """The packages below a folder, dotted, as they are installed."""
    found = sorted({path.parent for path in pathlib.Path(folder).rglob("*.py")})
    return [".".join(path.parts) for path in found]


editable = "editable_wheel" in sys.argv  # then a clone is used as it lies, and `kernels` is its own
names = [name for folder in PACKAGES for name in packages(folder)]
if not editable:
    names = [re.sub(r"^(kernels|configs)", r"ccnet_jax.\1", name) for name in names]
setup(
    packages=names,
    package_dir={} if editable else INSIDE,
)
