"""Builds the wheel; pyproject.toml has all that is the same for a clone.

A clone has `kernels` and `configs` beside `ccnet_jax`. Installed, they lie inside it, as `ccnet_jax.kernels`
and `ccnet_jax.configs`: another published package is called `kernels`. Imports of it are rewritten for that.
"""

import pathlib
import re
import sys

from setuptools import setup
from setuptools.command.build_py import build_py

INSIDE = {"ccnet_jax.kernels": "kernels", "ccnet_jax.configs": "configs"}
PACKAGES = ["ccnet_jax", "kernels", "configs"]
# What names the package `kernels` in code and in the commands of docstrings.
IMPORT = re.compile(r"^(\s*(?:from|import)\s+|.*python -m )kernels(?=[.\s])", re.MULTILINE)


class Build(build_py):
    """Copies the modules, and rewrites the imports of `kernels`."""

    def run(self):
        """Copy, then rewrite the copies."""
        super().run()
        if self.editable_mode:
            return
        for path in pathlib.Path(self.build_lib).rglob("*.py"):
            text = path.read_text()
            path.write_text(IMPORT.sub(r"\1ccnet_jax.kernels", text))


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
    cmdclass={"build_py": Build},
)
