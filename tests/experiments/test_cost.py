import json

import pytest

from ccnet_jax.common.errors import UserError
from experiments import cost, published


@pytest.fixture
def made(tmp_path, monkeypatch):
    """The names of the rows that are made, of a part with two."""
    names = []

    def row(name):
        names.append(name)
        return {"products": len(name)}

    monkeypatch.setattr(cost, "PATH", tmp_path / "cost.json")
    part = cost.Part([{"name": "a"}, {"name": "bb"}], row, str)
    monkeypatch.setattr(cost, "PARTS", {"part": part, "other": part})
    return names


def test_rows_are_made_once_for_the_same_sources(made, monkeypatch):
    report = cost.make(["part"])
    assert report["part"] == [{"name": "a", "products": 1}, {"name": "bb", "products": 2}]
    assert json.loads(cost.PATH.read_text()) == report
    assert cost.make(["part"])["part"] == report["part"]
    assert made == ["a", "bb"]
    monkeypatch.setattr(cost, "sources", lambda *paths: "changed")
    cost.make(["part"])
    assert made == ["a", "bb", "a", "bb"]


def test_a_part_alone_takes_no_rows_of_other_sources_from_the_others(made, monkeypatch):
    cost.make(["part", "other"])
    assert made == ["a", "bb"] * 2
    assert cost.make(["other"])["part"] != []
    before = cost.PATH.read_text()
    monkeypatch.setattr(cost, "sources", lambda *paths: "changed")
    with pytest.raises(UserError, match="has rows of the part part from other versions or sources"):
        cost.make(["other"])
    assert cost.PATH.read_text() == before
    cost.make(["part", "other"])
    assert made == ["a", "bb"] * 4


def test_rows_of_an_interrupted_run_are_kept(made):
    report = cost.make(["part"])
    cost.PATH.write_text(json.dumps(report | {"part": report["part"][:1]}))
    assert [row["name"] for row in cost.make(["part"])["part"]] == ["a", "bb"]
    assert made == ["a", "bb", "bb"]


def test_published_numbers_are_found():
    assert len(cost.MMSEG) == 16
    assert set(published.MMSEG_COSTS) <= set(cost.MMSEG)
