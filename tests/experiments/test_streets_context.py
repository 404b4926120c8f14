import json

import cv2
import pytest

from ccnet_jax.config import records
from ccnet_jax.data.datasets.streets import CLASSES, CONTEXT_CLASSES, Streets
from ccnet_jax.models.contexts import CONTEXTS
from experiments import runs, streets_context
from tests import helpers
from tests.experiments import reports


def test_a_module_has_the_mean_of_its_seeds_and_their_spread():
    lines = streets_context.tables(reports.streets_context())["scores"].splitlines()
    assert lines[0].startswith("| context module | seeds | mIoU | context classes |")
    assert lines[2] == "| none | 2 | 55.0 ± 7.1 | 27.5 ± 3.5 | 55.0 ± 7.1 | 27.5 ± 3.5 |"
    assert lines[3] == "| PSP (at `fedcba9`) | 1 | 80.0 | 40.0 | 80.0 | 40.0 |"
    assert lines[-1] == "*± is the standard deviation over the seeds.*"


def test_every_class_has_a_row():
    lines = streets_context.tables(reports.streets_context())["classes"].splitlines()
    assert lines[0] == "| IoU | none | PSP (at `fedcba9`) |"
    assert "| sky | 55.0 ± 7.1 | 80.0 |" in lines
    assert "| waiting vehicle | 27.5 ± 3.5 | 40.0 |" in lines


def test_a_finished_network_is_read_and_not_trained(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "program", lambda *words: pytest.fail(f"runs {words}"))
    cell = ("RCCA, 2 loops", 1)
    run = streets_context.run_of(cell, tmp_path)
    assert run.path == tmp_path / "RCCA-2loops-1"
    assert not streets_context.is_finished(run)
    run.path.mkdir()
    records.save_config(run, helpers.load_config("demo", steps=3))
    run.versions_file.write_text(json.dumps([{"commit": "a"}]))
    scores = {"step": 3, "mIoU": 0.5, "classes": CLASSES, "IoU": [0.25] * len(CLASSES)}
    run.scores_file("val").write_text(json.dumps(scores))
    assert not streets_context.is_finished(run)
    run.scores_file("val-ms-flip").write_text(json.dumps(scores | {"mIoU": 0.75}))
    assert streets_context.is_finished(run)
    row = streets_context.measure(cell, run)
    assert row["context"] == "RCCA, 2 loops"
    assert (row["seed"], row["commit"]) == (1, "a")
    assert (row["single"]["mIoU"], row["ms_flip"]["mIoU"]) == (0.5, 0.75)
    assert row["single"]["IoU"] == dict.fromkeys(CLASSES, 0.25)
    assert set(CONTEXT_CLASSES) < set(row["single"]["IoU"])


def test_every_context_module_is_measured():
    assert {variant["model.context"] for variant in streets_context.VARIANTS.values()} == set(CONTEXTS) - {
        "nonlocal_block"
    }


def test_the_pixel_of_the_figure_is_of_a_vehicle():
    label = Streets(streets_context.SPLIT)[0]["label"][streets_context.POINT]
    assert CLASSES[label] == "waiting vehicle"


def test_figures_are_those_of_the_first_seed(tmp_path, monkeypatch):
    monkeypatch.setattr(streets_context, "RESULTS", tmp_path)
    for name in streets_context.DRAWN:
        run = streets_context.run_of((name, 0), tmp_path)
        config = helpers.load_config("demo", model__width=1 / 16)
        helpers.write_run(run.path, config, Streets("val"))
        run.images("val").mkdir(parents=True)
        (run.images("val") / "val-00003.png").write_text(name)
    streets_context.draw(tmp_path)
    assert (tmp_path / "streets_none.png").read_text() == "none"
    assert (tmp_path / "streets_rcca.png").read_text() == "RCCA, 2 loops"
    assert cv2.imread(str(tmp_path / "streets_attention.png")).shape[1] > 3 * 192
