import json

import jax.numpy as jnp
import pytest

from kernels.bench import check
from kernels.bench.bench_cases import Size


def test_toy_checks_every_dtype_and_goes_on_where_it_was_cut_off(tmp_path, capsys, monkeypatch):
    real = check.results  # the kernels themselves: tests/experiments/test_on_gpu.py
    monkeypatch.setattr(check, "results", lambda name, *arguments: real("xla", *arguments))
    path = tmp_path / "check.json"
    check.main(["--toy", "--output", str(path)])
    report = json.loads(path.read_text())
    assert list(report)[:6] == ["device", "driver", "versions", "commit", "command", "date"]
    assert report["finished"]
    assert [row["dtype"] for row in report["rows"]] == list(check.BOUNDS)
    for row in report["rows"]:
        assert row["passed"]
        assert set(row["errors"]) == set(check.NAMES)
        assert all(0 <= x < row["bound"] for x in row["errors"].values())
    assert capsys.readouterr().out.startswith("3 of 3 cases are within their bounds")

    marked = [{**row, "kept": True} for row in report["rows"][:2]]
    path.write_text(json.dumps({**report, "rows": marked, "finished": False}))
    check.main(["--toy", "--output", str(path)])
    again = json.loads(path.read_text())
    assert again["rows"] == [*marked, report["rows"][2]]
    assert again["finished"]


def test_a_wrong_result_or_a_failure_ends_with_its_line(monkeypatch, tmp_path):
    exact = tuple(jnp.arange(3.0) for _ in check.NAMES)
    wrong = (*exact[:3], exact[3].at[1].set(jnp.nan), *exact[4:])
    monkeypatch.setattr(check, "results", lambda name, *_: exact if name == "xla" else wrong)
    row = check.checked_row(Size(1, 2, 3, 4, 5), "float32", "triton_interpret")
    assert not row["passed"]
    assert "FAIL 1x2x3, D 4, C 5" in check.row_line(row)
    assert "(d key)" in check.row_line(row)

    def fail(*_):
        raise RuntimeError("out of shared memory\nat line 3")

    monkeypatch.setattr(check, "results", fail)
    with pytest.raises(SystemExit, match=r"FAIL 2x5x7.*out of shared memory"):
        check.main(["--toy"])


def test_without_a_gpu_it_says_what_it_can_do():
    with pytest.raises(SystemExit, match="only the reference; --toy"):
        check.main([])
