import json

import pytest

from experiments import cost, published


@pytest.fixture
def made(tmp_path, monkeypatch):
    """The names of the rows that are made, of a part with two."""
    names = []

    def row(name):
        names.append(name)
        return {"products": len(name)}

    monkeypatch.setattr(cost, "PATH", tmp_path / "cost.json")
    monkeypatch.setattr(cost, "PARTS", {"part": ([{"name": "a"}, {"name": "bb"}], row)})
    return names


def test_rows_are_made_once_for_the_same_sources(made, monkeypatch):
    report = cost.make(["part"])
    assert report["part"] == [{"name": "a", "products": 1}, {"name": "bb", "products": 2}]
    assert json.loads(cost.PATH.read_text()) == report
    assert cost.make(["part"])["part"] == report["part"]
    assert made == ["a", "bb"]
    monkeypatch.setattr(cost, "sources", lambda *folders: "changed")
    cost.make(["part"])
    assert made == ["a", "bb", "a", "bb"]


def test_rows_of_an_interrupted_run_are_kept(made):
    report = cost.make(["part"])
    cost.PATH.write_text(json.dumps(report | {"part": report["part"][:1]}))
    assert [row["name"] for row in cost.make(["part"])["part"]] == ["a", "bb"]
    assert made == ["a", "bb", "bb"]


def test_published_numbers_are_found():
    assert len(cost.MMSEG) == 16
    assert set(published.MMSEG_COSTS) <= set(cost.MMSEG)
