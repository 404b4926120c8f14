"""The notebook's cells, run from first to last."""

import json

from ccnet_jax.data.datasets.streets import Streets
from tests import helpers


def test_the_notebook_runs(tmp_path, monkeypatch, capsys):
    helpers.write_run(tmp_path / "run", helpers.load_config("demo"), Streets("val"))
    monkeypatch.setenv("RUN", str(tmp_path / "run"))
    notebook = json.loads((helpers.ROOT / "experiments/inference.ipynb").read_text())
    names = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            exec("".join(cell["source"]), names)
    assert names["logits"].shape == (1, 96, 192, 13)
    assert names["maps"].shape == (2, 12, 24)
    assert len(names["labels"]) == 3
    assert "pictures a second on" in capsys.readouterr().out
