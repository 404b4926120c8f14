"""The wheel: what it holds, and that its programs work in an empty folder."""

import os
import pathlib
import subprocess
import sys
import zipfile

import pytest

from tests.helpers import ROOT


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder with the wheel's contents, as pip would install them."""
    folder = tmp_path_factory.mktemp("wheel")
    # a copy: setuptools leaves a build folder beside the sources
    sources = folder / "sources"
    kept = ("ccnet_jax", "configs", "kernels", "pyproject.toml", "README.md", "LICENSE")
    requirements = [path.name for path in ROOT.glob("requirements*.txt")]
    sources.mkdir()
    for name in (*kept, *requirements):
        (sources / name).symlink_to(ROOT / name)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    done = subprocess.run([*build, "-w", folder, "."], cwd=sources, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_it_holds_every_module_and_no_package_named_configs(site):
    def modules(folder, root):
        return {str(path.relative_to(root)) for path in folder.rglob("*.py")}

    wanted = modules(ROOT / "ccnet_jax", ROOT) | modules(ROOT / "kernels", ROOT)
    wanted |= {f"ccnet_jax/{name}" for name in modules(ROOT / "configs", ROOT)}
    assert modules(site, site) == wanted
    assert (site / "kernels" / "gpus" / "h200.txtpb").is_file()
    page = pathlib.Path("ccnet_jax/page/static")
    assert {path.name for path in (site / page).iterdir()} == {path.name for path in (ROOT / page).iterdir()}


def test_configs_are_found_by_name_in_an_empty_folder(site, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(site), "JAX_PLATFORMS": "cpu"}

    def run(*arguments):
        command = [sys.executable, "-m", "ccnet_jax.train", *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

    shown = run("--config", "cityscapes:mmseg-r50-769x769-80k", "--show")
    assert shown.returncode == 0, shown.stderr
    assert '"steps": 80000' in shown.stdout
    assert not list(tmp_path.iterdir())
