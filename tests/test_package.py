"""The wheel: what it holds, and that its programs work in an empty folder."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

from ccnet_jax.config import completion, config_files
from ccnet_jax.data.datasets.streets import Streets
from tests import helpers
from tests.helpers import ROOT
from tests.wheel import SOURCES, unpacked_wheel

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    return unpacked_wheel(tmp_path_factory.mktemp("wheel"))


def modules(folder, root):
    return {str(path.relative_to(root)) for path in folder.rglob("*.py")}


@pytest.fixture
def beside_another_kernels(site, tmp_path):
    """Runs Python in an empty folder, with the wheel installed beside another package named `kernels`."""
    other = tmp_path / "other" / "kernels"
    other.mkdir(parents=True)
    (other / "__init__.py").write_text("raise AssertionError('this is the other package')\n")
    folder = tmp_path / "empty"
    folder.mkdir()
    paths = os.pathsep.join([str(other.parent), str(site)])
    environment = {**os.environ, "PYTHONPATH": paths, "JAX_PLATFORMS": "cpu"}

    def run(*arguments):
        command = [sys.executable, *arguments]
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)

    return run


def test_it_holds_every_module_inside_one_package(site):
    wanted = modules(ROOT / "ccnet_jax", ROOT)
    wanted |= {f"ccnet_jax/{name}" for top in ("kernels", "configs") for name in modules(ROOT / top, ROOT)}
    assert modules(site, site) == wanted
    assert (site / "ccnet_jax" / "kernels" / "bench" / "gpus" / "h200.txtpb").is_file()
    page = pathlib.Path("ccnet_jax/tools/page/static")
    assert {path.name for path in (site / page).iterdir()} == {path.name for path in (ROOT / page).iterdir()}


IMPORT_ALL = """
import importlib, pathlib, sys
import ccnet_jax
root = pathlib.Path(ccnet_jax.__file__).parent
for path in sorted(root.rglob("*.py")):
    name = ".".join(path.relative_to(root.parent).with_suffix("").parts).removesuffix(".__init__")
    if not name.endswith("bench_pytorch"):  # PyTorch's, which is no requirement
        importlib.import_module(name)
import ccnet_jax.kernels
assert ccnet_jax.criss_cross_attention is ccnet_jax.kernels.criss_cross_attention
assert "kernels" not in sys.modules
print(len(sys.modules))
"""


def test_it_needs_no_package_named_kernels_and_touches_none(beside_another_kernels):
    done = beside_another_kernels("-c", IMPORT_ALL)
    assert done.returncode == 0, done.stderr


def test_configs_are_found_by_name_and_the_command_starts_programs(beside_another_kernels, site):
    (entry,) = (
        line
        for line in next(site.glob("*.dist-info/entry_points.txt")).read_text().splitlines()
        if "=" in line
    )
    module, function = entry.removeprefix("ccnet = ").split(":")
    command = ["-c", f"import sys; sys.argv[0] = 'ccnet'; from {module} import {function}; {function}()"]
    shown = beside_another_kernels(
        *command, "train", "--config", "cityscapes:mmseg-r50-769x769-80k", "--show"
    )
    assert shown.returncode == 0, shown.stderr
    assert '"steps": 80000' in shown.stdout
    unknown = beside_another_kernels(*command, "trian")
    assert (unknown.returncode, unknown.stdout) == (2, "")
    assert unknown.stderr == "error: there is no program 'trian'; did you mean train?; --help lists them\n"


PROGRAMS = """
import sys
import ccnet_jax
from ccnet_jax import export, share
from ccnet_jax.config import completion
share.main([sys.argv[1], "--to", "shared"])
assert ccnet_jax.load("shared").classes == ccnet_jax.load(sys.argv[1]).classes
for form in ("stablehlo", "onnx"):
    export.main(["shared", "--to", form, "--size", "33,49"])
for shell in completion.SHELLS:
    assert "streets_instances" in completion.completion_script(shell)
"""


def test_programs_work_in_an_empty_folder(beside_another_kernels, tmp_path):
    for package in ("flatbuffers", "onnx", "onnxruntime", "shtab"):
        pytest.importorskip(package, reason="pip install -r requirements-dev.txt")
    run = tmp_path / "run"
    helpers.write_run(run, helpers.load_config("demo", model__width=0.0625), Streets("val"))
    done = beside_another_kernels("-c", PROGRAMS, str(run))
    assert done.returncode == 0, done.stderr
    assert "shared is complete" in done.stdout
    assert {path.name for path in (tmp_path / "empty").iterdir()} == {
        "shared",
        "shared.stablehlo",
        "shared.onnx",
    }


LIGHT = """
import sys
import jax
before = set(sys.modules)
import ccnet_jax
print(*(set(sys.modules) - before))
"""


def test_importing_it_imports_nothing_that_is_heavy():
    done = subprocess.run([sys.executable, "-c", LIGHT], cwd=ROOT, capture_output=True, text=True, check=True)
    assert {name.partition(".")[0] for name in done.stdout.split()} == {"ccnet_jax"}


def test_completion_knows_programs_flags_and_configs(tmp_path):
    pytest.importorskip("shtab", reason="pip install shtab")
    script = tmp_path / "ccnet"
    script.write_text(completion.completion_script("bash"))

    def proposed(*words):
        """What bash proposes for the last word."""
        listed = " ".join(f"'{word}'" for word in words)
        asked = f"source {script}; COMP_WORDS=({listed}); COMP_CWORD={len(words) - 1}; "
        asked += "$(complete -p ccnet | sed 's/.*-F \\([^ ]*\\) .*/\\1/'); printf '%s\\n' \"${COMPREPLY[@]}\""
        done = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, check=True, cwd=tmp_path)
        return done.stdout.split()

    assert {"train", "eval", "predict", "completion"} <= set(proposed("ccnet", ""))
    assert proposed("ccnet", "tr") == ["train"]
    assert proposed("ccnet", "train", "--resu") == ["--resume"]
    assert set(proposed("ccnet", "train", "--config", "cam")) == {
        "camvid",
        *(x for x in config_files.names_with_variants() if x.startswith("camvid:")),
    }
    assert "cityscapes:mmseg-r50-769x769-80k" in proposed(
        "ccnet", "train", "--config", "cityscapes:mmseg-r50-7"
    )
    assert "camvid" in completion.completion_script("zsh")


def bounds(name, sign):
    """{package: version} of the lines of a requirements file."""
    lines = (ROOT / name).read_text().splitlines()
    return dict(
        re.match(rf"([\w-]+)(?:\[.*\])?{sign}([\d.]+)", line).groups()
        for line in lines
        if line and line[0] != "#"
    )


def test_the_lowest_versions_are_the_lower_bounds():
    wanted = {}
    for extra in ("", "-export", "-explore", "-hub"):
        wanted |= bounds(f"requirements{extra}.txt", ">=")
    assert bounds("requirements-lowest.txt", "==") == wanted


def test_the_manual_says_what_each_dependency_is_for():
    page = (ROOT / "docs" / "install.md").read_text()
    named = re.findall(r"^\| ([\w, -]+) \|", page, re.MULTILINE)
    known = {name for names in named for name in names.split(", ")}
    for extra in ("", "-cost", "-explore", "-export", "-hub", "-torch"):
        assert known >= set(bounds(f"requirements{extra}.txt", ">="))


def test_the_container_gets_what_the_wheel_is_built_from(site):
    copied = re.findall(r"^COPY (.+) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    names = {name for line in copied for name in line.split()}
    assert names == {*SOURCES, "requirements*.txt"}
    kept = (ROOT / ".dockerignore").read_text().splitlines()
    assert {f"!{name}" for name in names} <= set(kept)
