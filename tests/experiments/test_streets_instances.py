import json

import pytest

from ccnet_jax.config import records
from ccnet_jax.data.datasets.streets_instances import CLASSES, CONTEXT_CLASSES
from experiments import runs, streets_instances
from tests import helpers


def scores_of(ap):
    fractions = dict.fromkeys(CLASSES, ap) | dict.fromkeys(CONTEXT_CLASSES, ap / 2)
    return {kind: {"AP": ap, "AP50": 2 * ap, "classes": fractions} for kind in streets_instances.KINDS}


def test_a_module_has_the_mean_of_its_seeds_and_their_spread():
    rows = [
        {"context": name, "seed": seed, "commit": "a" * 40, **scores_of(ap)}
        for name, seed, ap in (("none", 0, 0.1), ("none", 1, 0.2), ("RCCA, 2 loops", 0, 0.4))
    ]
    tables = streets_instances.tables({"commit": "a" * 40, "rows": rows})
    lines = tables["scores"].splitlines()
    mean, doubled, half = "15.0 ± 7.1", "30.0 ± 14.1", "7.5 ± 3.5"
    assert lines[2] == f"| none | 2 | {mean} | {mean} | {doubled} | {doubled} | {half} |"
    assert lines[3] == "| RCCA, 2 loops | 1 | 40.0 | 40.0 | 80.0 | 80.0 | 20.0 |"
    assert "| waiting vehicle | 7.5 ± 3.5 | 20.0 |" in tables["classes"].splitlines()


def test_a_finished_network_is_read_and_not_trained(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "program", lambda *words: pytest.fail(f"runs {words}"))
    cell = ("non-local block", 1)
    run = streets_instances.run_of(cell, tmp_path)
    assert run.path == tmp_path / "nonlocal-1"
    assert not streets_instances.is_finished(run)
    run.path.mkdir()
    records.save_config(run, helpers.load_config("streets_instances:nonlocal", steps=200))
    run.versions_file.write_text(json.dumps([{"commit": "a"}]))
    run.scores_file("val").write_text(json.dumps({"step": 200, **scores_of(0.2)}))
    assert streets_instances.is_finished(run)
    row = streets_instances.measure(cell, run)
    assert (row["context"], row["seed"], row["commit"]) == ("non-local block", 1, "a")
    assert streets_instances.context_ap(row) == pytest.approx(0.1)


@pytest.mark.parametrize(("name", "variant"), streets_instances.VARIANTS.items())
def test_every_variant_is_of_the_config(name, variant):
    wanted = {"none": "none", "non-local block": "nonlocal_block", "RCCA, 2 loops": "rcca"}[name]
    assert helpers.load_config(f"streets_instances:{variant}").model.context == wanted
