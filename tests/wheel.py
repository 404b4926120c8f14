"""The wheel, as users install it."""

import pathlib
import subprocess
import sys
import zipfile

from tests.helpers import ROOT

# What it is built from, beside the requirements.
SOURCES = ("ccnet_jax", "configs", "kernels", "pyproject.toml", "setup.py", "README.md", "LICENSE")


def unpacked_wheel(folder: pathlib.Path) -> pathlib.Path:
    """Build the wheel in a folder; a folder with its contents, as pip would install them."""
    # a copy: setuptools leaves a build folder beside the sources
    sources = folder / "sources"
    requirements = [path.name for path in ROOT.glob("requirements*.txt")]
    sources.mkdir()
    for name in (*SOURCES, *requirements):
        (sources / name).symlink_to(ROOT / name)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    done = subprocess.run([*build, "-w", folder, "."], cwd=sources, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"
