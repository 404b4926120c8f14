import importlib.util
import json

import numpy as np
import pytest

from ccnet_jax.tools.exporting import FORMATS
from experiments import export_latency
from experiments.speed import exported_side, worker
from experiments.speed.cases import TOY_CASES, Case
from tests.tools.exporting.programs import ImageShape, small_program

CASE = Case("inference", 10, 1, 33, 49, "float32", 0.125)


@pytest.fixture
def installed(monkeypatch):
    """All contenders are `fake_contender`, and there are no files."""
    fakes = dict.fromkeys(export_latency.PROGRAMS, "tests.experiments.fake_contender")
    monkeypatch.setattr(export_latency, "PROGRAMS", fakes)
    monkeypatch.setattr(export_latency.ExportSession, "make_files", lambda session, case: None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)


def test_all_stand_in_one_table(installed, tmp_path, capsys):
    output = tmp_path / "latency.json"
    export_latency.main(["--toy", "--rounds", "2", "--output", str(output)])
    report = json.loads(output.read_text())
    assert Case(**report["case"]) == TOY_CASES[0]
    lines = export_latency.tables(report)["times"].splitlines()
    assert lines == capsys.readouterr().out.splitlines()
    names = [line.split(" | ")[0] for line in lines[2:]]
    assert names == [
        "| jax",
        "| jax stablehlo",
        "| jax stablehlo, default options",
        "| onnxruntime",
        "| torch",
        "| torch channels-last",
    ]
    assert lines[2].endswith("| 7.00 | - |")
    assert lines[4].endswith("| 7.00 | 100.000 |")


def test_what_is_missing_is_named(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name if name == "onnx" else None)
    with pytest.raises(SystemExit) as exit_:
        export_latency.main(["--toy"])
    assert exit_.value.code == 2
    assert "onnxruntime and torch not installed" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["stablehlo", "onnx"])
def test_an_exported_file_is_a_contender(form, tmp_path):
    for package in FORMATS[form].packages:
        pytest.importorskip(package, reason="see requirements-export.txt")
    program = small_program(ImageShape(1, 33, 49))
    path = tmp_path / f"a.{form}"
    FORMATS[form].write(program, path)
    contender = exported_side.prepare(CASE, form, tmp_path, {"files": {form: str(path)}})
    assert worker.seconds_a_call(contender, 1) > 0
    labels = contender.logits()
    assert (labels.shape, labels.dtype) == ((33, 49), np.uint8)
