"""The notebook's cells and the Python of docs/notebooks.md, run from first to last on a small run."""

import json
import re

import pytest

from ccnet_jax.data.datasets.streets import Streets
from tests import helpers

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder that holds runs/demo."""
    folder = tmp_path_factory.mktemp("user")
    helpers.write_run(folder / "runs/demo", helpers.load_config("demo"), Streets("val"))
    return folder


def test_the_notebook_runs(folder, monkeypatch, capsys):
    monkeypatch.setenv("RUN", str(folder / "runs/demo"))
    notebook = json.loads((helpers.ROOT / "experiments/inference.ipynb").read_text())
    names = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            exec("".join(cell["source"]), names)
    assert names["logits"].shape == (1, 96, 192, 13)
    assert names["maps"].shape == (2, 12, 24)
    assert len(names["labels"]) == 3
    assert "images a second on" in capsys.readouterr().out


def test_the_manual_s_python_runs(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    text = (helpers.ROOT / "docs/notebooks.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert len(blocks) == text.count("```python")
    names = {}
    for block in blocks:
        exec(compile(block, "docs/notebooks.md", "exec"), names)
    assert names["logits"].shape == (8, 96, 192, 13)  # of the last batch: one image for each device
    assert names["one_by_one"].shape == (2, 96, 192, 13)
    assert names["prediction"].label.shape == names["label"].shape == (96, 192)
    assert names["maps"].shape == (2, 12, 24)
    out = capsys.readouterr().out
    assert "images are float64 from 0.00784 to 0.929, as if white were 1, " in out
    assert "slide 64x64/43x43 | whole, ms-flip" in out
