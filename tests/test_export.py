"""The program that exports: its files in a process without this project, its refusals, what it leaves."""

import functools
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

import ccnet_jax
from ccnet_jax import export
from ccnet_jax.common.errors import UserError
from ccnet_jax.config import records
from ccnet_jax.data.datasets.streets import Streets
from ccnet_jax.engine.folder import RunFolder
from ccnet_jax.tools.exporting import FORMATS, stablehlo
from ccnet_jax.tools.exporting.formats import Disagrees
from tests.helpers import fresh_python, load_config, ran, write_run
from tests.test_instances import SMALL as SMALL_INSTANCES

# shape checks know no open sides
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("without_shape_checks")]
SMALL = {"model__depth": 10, "model__width": 0.125, "eval_window": None, "eval_stride": None}
SERVER = {
    "stablehlo": """
import sys, numpy as np
from jax import export
program = export.deserialize(bytearray(open(sys.argv[1], "rb").read()))
results = program.call(*(np.load(path) for path in sys.argv[3:]))
""",
    "onnx": """
import sys, numpy as np, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
names = [x.name for x in session.get_outputs()]
results = dict(zip(names, session.run(names, {"images": np.load(sys.argv[3])})))
""",
}
AFTER = """
np.savez(sys.argv[2], **{name: np.asarray(x) for name, x in results.items()})
assert not [name for name in sys.modules if name.startswith(("ccnet_jax", "flax", "kernels"))]
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """{"mmseg": ..., "psp": ..., "instance": ...}: folders of runs of random networks."""
    folder = tmp_path_factory.mktemp("runs")
    source = Streets("val")
    configs = {
        "mmseg": load_config("demo", **SMALL),
        "psp": load_config("demo", model__context="psp", **SMALL),
        "instance": load_config("coco:r50-rcca", **SMALL_INSTANCES),
    }
    for name, config in configs.items():
        write_run(folder / name, config, source)
    return {name: folder / name for name in configs}


@pytest.fixture
def exported(monkeypatch, tmp_path):
    """`python -m ccnet_jax.export ARGUMENTS` in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return functools.partial(ran, monkeypatch, export)


def served(form, path, arguments, tmp_path, **environment):
    """{name: array} that a process computes which has JAX or onnxruntime, and not this project."""
    script, results = tmp_path / "server.py", tmp_path / "results.npz"
    script.write_text(SERVER[form] + AFTER)
    inputs = []
    for i, array in enumerate(arguments):
        inputs.append(tmp_path / f"input{i}.npy")
        np.save(inputs[-1], array)
    inherited = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment = inherited | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"} | environment  # as in this process
    command = [sys.executable, script, path, results, *inputs]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with np.load(results) as file:
        return dict(file)


WANTED = """
import sys, jax, numpy as np, ccnet_jax
from ccnet_jax.tasks.semantic_model import Model
model, images = ccnet_jax.load(sys.argv[1]), np.load(sys.argv[2])
probabilities = jax.jit(lambda model, images: jax.nn.softmax(Model.__call__(model, images)))(model, images)
np.savez(sys.argv[3], classes=jax.jit(model)(images).argmax(-1), probabilities=probabilities)
"""


def test_a_process_with_jax_alone_computes_every_bit_of_the_model(runs, tmp_path):
    """As XLA compiles for users: see tools/exporting/test_stablehlo.py."""
    path, inputs, results = (str(tmp_path / name) for name in ("a.stablehlo", "images.npy", "wanted.npz"))
    out = fresh_python(
        "-m",
        "ccnet_jax.export",
        str(runs["mmseg"]),
        *("--to", "stablehlo", "--probabilities", "--out", path),
    )
    assert out.count("every bit as the jitted model's") == 3
    assert "a.stablehlo: 1." in out
    assert "images any x any x any (batch x height x width), float32" in out
    images = np.random.default_rng(5).integers(0, 256, (2, 41, 57, 3), np.uint8)
    np.save(inputs, images)
    fresh_python("-c", WANTED, str(runs["mmseg"]), inputs, results)
    found = served("stablehlo", path, [images], tmp_path, XLA_FLAGS="", JAX_DISABLE_MOST_OPTIMIZATIONS="0")
    with np.load(results) as wanted:
        np.testing.assert_array_equal(found["classes"], wanted["classes"])
        np.testing.assert_array_equal(found["probabilities"], wanted["probabilities"])


def test_a_process_with_onnxruntime_alone_labels_as_the_model(runs, exported, tmp_path, capsys):
    for package in FORMATS["onnx"].packages:
        pytest.importorskip(package, reason="ONNX needs pip install -r requirements-export.txt")
    exported("--workdir", runs["mmseg"], "--to", "onnx", "--size", "41,57", "--batch", "2")
    assert capsys.readouterr().out.count("logits differ by") == 1
    images = np.random.default_rng(5).integers(0, 256, (2, 41, 57, 3), np.uint8)
    found = served("onnx", tmp_path / "mmseg.onnx", [images], tmp_path)
    assert set(found) == {"classes"}
    logits = np.asarray(ccnet_jax.load(runs["mmseg"])(images))
    assert found["classes"].dtype == np.uint8
    assert (found["classes"] == logits.argmax(-1)).mean() > 0.999


def test_an_instance_network_is_written_for_a_canvas_of_its_config(runs, exported, tmp_path):
    exported(runs["instance"], "--to", "stablehlo")
    images = np.random.default_rng(5).integers(0, 256, (1, 96, 192, 3), np.uint8)
    size = np.array([[90, 192]], np.int32)
    found = served("stablehlo", tmp_path / "instance.stablehlo", [images, size], tmp_path)
    wanted = jax.jit(ccnet_jax.load(runs["instance"]))(images, size)
    for name, value in wanted._asdict().items():
        np.testing.assert_array_equal(found[name], value)


BAD = [
    ("mmseg", ["--to", "onnx", "--size", "5"], r"--size=5 must be H,W in pixels, or any"),
    ("mmseg", ["--to", "onnx", "--size", "512,1024,3"], r"--size=512,1024,3 must be H,W in pixels, or any"),
    ("mmseg", ["--to", "onnx", "--size", "31,64"], r"--size=31,64: each side must have 32 to 32768 pixels"),
    ("mmseg", ["--to", "onnx", "--size", "32768,32768"], r"have \d+ GB of logits, .*; choose smaller ones"),
    ("mmseg", ["--to", "onnx", "--batch", "0"], r"--batch=0 must be a whole number of at least 1, or any"),
    (
        "mmseg",
        ["--to", "onnx", "--dtype", "bfloat16"],
        r"--dtype bfloat16 is not written with --to onnx; it .*",
    ),
    ("mmseg", ["--to", "onnx", "--out", "a.pb"], r"--out a.pb must end in .onnx: no other kind is written"),
    ("mmseg", ["--to", "onnx", "--out", "/proc/a.onnx"], r"--out /proc/a.onnx cannot be written"),
    ("mmseg", ["--to", "stablehlo", "--checkpoint", "best"], r"best holds no checkpoint; .*--checkpoint"),
    (
        "mmseg",
        ["--to", "stablehlo", "--workdir", "b"],
        r"the command line names two runs, b and .*; name one",
    ),
    ("mmseg", ["--to", "stablehlo", "--parts", "no.py"], r"--parts no.py is no file; name a Python file"),
    ("nowhere", ["--to", "onnx"], r"nowhere.* (train|name|holds)"),
    ("psp", ["--to", "stablehlo"], r"must know the size of its images.*; pass --size H,W and --batch N"),
    ("instance", ["--to", "onnx"], r"--to onnx does not take .*'instance'; choose --to stablehlo"),
    ("instance", ["--to", "stablehlo", "--size", "64,64"], r"pass --size 96,192 or 192,96"),
    ("instance", ["--to", "stablehlo", "--size", "any"], r"pass --size 96,192 or 192,96"),
    ("instance", ["--to", "stablehlo", "--batch", "any"], r"in a batch of one size: pass --batch N"),
    ("instance", ["--to", "stablehlo", "--probabilities"], r"are those of pixels, .*; omit it"),
]


@pytest.mark.parametrize(("name", "arguments", "message"), BAD, ids=[" ".join([x[0], *x[1]]) for x in BAD])
def test_a_mistake_gets_one_message_and_leaves_nothing(name, arguments, message, runs, exported, tmp_path):
    with pytest.raises(UserError, match=message) as found:
        exported(runs.get(name, name), *arguments)
    assert "\n" not in str(found.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: --to"),
        (["--to", "tflite"], "invalid choice: 'tflite'"),
        (["--to", "onnx", "--dtype", "int8"], "invalid choice: 'int8'"),
        (["--to", "onnx", "--sizes", "any"], "unknown argument '--sizes'; did you mean --size"),
        (["--to", "onnx", "--size="], "--size is empty; give it a value"),
        (["--to", "onnx", "--out", ""], "--out is empty; give it a value"),
        (["--to", "onnx", "--config.dtype=bfloat16"], "cannot be changed here"),
    ],
)
def test_a_wrong_flag_is_named(arguments, message, exported, capsys):
    with pytest.raises(SystemExit) as ended:
        exported("runs/a", *arguments)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_a_package_that_is_missing_is_named(runs, exported, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for name, words in (
        ("onnx", r"needs onnx and onnxruntime, not installed here: pip install onnx onnxruntime"),
        ("saved_model", "needs tensorflow, not installed here: pip install tensorflow"),
    ):
        with pytest.raises(UserError, match=words):
            exported(runs["mmseg"], "--to", name)


def test_a_file_of_the_run_is_not_replaced(runs, exported, tmp_path):
    trap = tmp_path / "trap.stablehlo"
    trap.symlink_to(runs["mmseg"] / "config.json")
    before = (runs["mmseg"] / "config.json").read_bytes()
    with pytest.raises(UserError, match="would replace a file that this program reads; name another file"):
        exported(runs["mmseg"], "--to", "stablehlo", "--out", trap)
    assert (runs["mmseg"] / "config.json").read_bytes() == before


def test_a_folder_with_something_in_it_is_not_replaced(runs, exported, monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "mine").touch()
    with pytest.raises(UserError, match="--out a exists and is not empty; choose a new folder"):
        exported(runs["mmseg"], "--to", "saved_model", "--out", "a")


def test_a_file_that_disagrees_does_not_replace_the_one_before(runs, exported, monkeypatch, tmp_path):
    def disagreeing(program, path):
        assert path.stat().st_size > 0
        raise Disagrees("the file disagrees")

    monkeypatch.setitem(FORMATS, "stablehlo", stablehlo.FORMAT._replace(compare=disagreeing))
    (tmp_path / "a.stablehlo").write_text("older")
    with pytest.raises(UserError, match="the file disagrees"):
        exported(
            runs["mmseg"], "--to", "stablehlo", "--size", "33,49", "--batch", "1", "--out", "a.stablehlo"
        )
    assert [path.name for path in tmp_path.iterdir()] == ["a.stablehlo"]
    assert (tmp_path / "a.stablehlo").read_text() == "older"


def test_corrupt_weights_are_named(runs, exported, monkeypatch):
    model = ccnet_jax.load(runs["mmseg"])
    bad = model.replace(variables=jax.tree.map(lambda x: x * np.nan, model.variables))
    monkeypatch.setattr(export, "load", lambda folder, checkpoint: bad)
    with pytest.raises(
        UserError, match=r"batch_stats/.* in the run's checkpoint holds values that are not finite"
    ):
        exported(runs["mmseg"], "--to", "stablehlo")


def test_a_run_that_is_tested_in_windows_is_told_of(tmp_path, exported, capsys):
    changes = SMALL | {"eval_window": (64, 64), "eval_stride": (32, 32)}
    write_run(tmp_path / "run", load_config("demo", **changes), Streets("val"))
    exported("run", "--to", "stablehlo", "--size", "33,49", "--batch", "1", "--dtype", "bfloat16")
    assert "this run is tested otherwise (slide 64x64/32x32)" in capsys.readouterr().out
    assert records.load_config(RunFolder.at("run")).dtype == "float32"
