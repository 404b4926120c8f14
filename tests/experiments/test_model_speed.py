"""The measurement, with contenders that need no library; `test_on_gpu.py` runs the real ones."""

import json

import numpy as np
import pytest

from experiments import model_speed
from experiments.speed import cases
from experiments.speed.cases import SETUPS, Case, Setup
from experiments.speed.worker import Failed, Worker

INFERENCE = Case("inference", 50, 2, 8, 8, "float32")
TRAINING = Case("training", 101, 4, 8, 8, "bfloat16")
NAMES = ("jax", "torch", "torch.compile")


@pytest.fixture
def fake(monkeypatch):
    """Every contender is `fake_contender`; the weights are none."""
    monkeypatch.setattr(
        model_speed, "CONTENDERS", dict.fromkeys(cases.CONTENDERS, "tests.experiments.fake_contender")
    )
    monkeypatch.setattr(model_speed.Session, "make_weights", lambda *_: None)
    monkeypatch.setitem(SETUPS, "toy", Setup((INFERENCE, TRAINING), NAMES, rounds=2, round_seconds=0.0))
    monkeypatch.setattr(model_speed.importlib.util, "find_spec", lambda name: name)


def test_contenders_take_turns_and_failures_are_told(fake, tmp_path):
    session = model_speed.Session("cpu", None, tmp_path)
    found = model_speed.measured_case(INFERENCE, NAMES, SETUPS["toy"], session)
    calls = (tmp_path / "calls").read_text().split()
    turns = ["jax", "jax", "torch", "torch"]  # in each turn a call that is not timed, and one that is
    assert calls == ["jax", "torch", *turns * 3]  # the first call, a warm-up and two rounds
    assert found["torch.compile"]["failure"] == "no compiler"
    for name in ("jax", "torch"):
        numbers = found[name]
        assert len(numbers["rounds"]) == 2
        low_to_high = [numbers[key] for key in ("low", "p25", "seconds", "p75", "high")]
        assert low_to_high == sorted(low_to_high)
        assert numbers["images_per_second"] == pytest.approx(2 / numbers["seconds"])
        assert numbers["compile_seconds"] >= 0
        assert numbers["peak_bytes"] == 7 * 10**9
    assert found["jax"]["logits_difference"] is None
    assert found["torch"]["logits_difference"] == pytest.approx(0.5 / 2.5)


def test_a_contender_that_finds_no_memory_beside_the_others_runs_alone(fake, tmp_path):
    session = model_speed.Session("cpu", None, tmp_path)
    found = model_speed.measured_case(TRAINING, ("jax", "torch"), SETUPS["toy"], session)
    assert [found[name]["alone"] for name in ("jax", "torch")] == [False, True]
    assert found["torch"]["failure"] is None
    assert found["torch"]["first_loss"] == 3.0
    assert found["torch"]["logits_difference"] is None


def test_a_run_that_was_cut_off_keeps_its_cases_and_goes_on(fake, tmp_path, monkeypatch, capsys):
    output = tmp_path / "speed.json"
    model_speed.main(["--toy", "--output", str(output)])
    report = json.loads(output.read_text())
    assert list(report)[:6] == ["device", "driver", "versions", "commit", "command", "date"]
    assert [Case(**row["case"]) for row in report["cases"]] == [INFERENCE, TRAINING]
    assert report["finished"]

    asked = []
    real = model_speed.measured_case

    def noted(case, **arguments):
        asked.append(case)
        return real(case, **arguments)

    monkeypatch.setattr(model_speed, "measured_case", noted)
    output.write_text(json.dumps({**report, "cases": report["cases"][:1], "finished": False}))
    model_speed.main(["--toy", "--output", str(output)])
    assert asked == [TRAINING]
    again = json.loads(output.read_text())
    assert again["cases"][0] == report["cases"][0]
    assert again["finished"]
    model_speed.main(["--toy", "--contenders", "jax,torch", "--output", str(output)])
    assert asked == [TRAINING]  # both are there

    table = model_speed.tables(again)["times"]
    assert table in capsys.readouterr().out
    lines = table.splitlines()
    assert len(lines) == 2 + 6
    assert lines[2].startswith("| inference R-50 2x8x8 float32 | jax | ")
    assert "| 7.00 | 2e-01 |" in lines[3]
    assert lines[4].endswith("| failed: no compiler |")
    assert "torch (alone)" in lines[6]
    assert lines[6].endswith("| loss 3.000 |")


def test_chosen_cases_do_not_finish_the_measurement(fake, tmp_path, capsys):
    output = tmp_path / "speed.json"
    choose = ["--toy", "--contenders", "jax", "--output", str(output), "--cases"]
    model_speed.main([*choose, "training"])
    report = json.loads(output.read_text())
    assert [Case(**row["case"]) for row in report["cases"]] == [TRAINING]
    assert not report["finished"]
    report["cases"][0]["commit"] = "0123456789"  # measured when other results were the newest
    output.write_text(json.dumps(report))
    model_speed.main([*choose, "inference"])
    report = json.loads(output.read_text())
    assert report["finished"]
    assert f"| {TRAINING.name} (at `0123456`) | jax |" in model_speed.tables(report)["times"]

    with pytest.raises(SystemExit) as exit_:
        model_speed.main([*choose, "R-51"])
    assert exit_.value.code == 2
    assert f"no case has 'R-51' in its name: {INFERENCE.name}, {TRAINING.name}" in capsys.readouterr().err


def test_without_pytorch_only_jax_is_timed(monkeypatch, capsys):
    monkeypatch.setattr(model_speed.importlib.util, "find_spec", lambda name: None)
    assert model_speed.chosen_contenders(None, SETUPS["gpu"]) == ["jax"]
    assert "PyTorch is not installed: torch, torch channels-last, torch.compile" in capsys.readouterr().out


def test_an_unknown_contender_is_named(capsys):
    with pytest.raises(SystemExit) as exit_:
        model_speed.main(["--toy", "--contenders", "jax,tensorflow"])
    assert exit_.value.code == 2
    assert "unknown ['tensorflow']; choose of jax, torch, torch channels-last, torch.compile" in (
        capsys.readouterr().err
    )


def test_a_process_that_dies_is_a_failure_with_its_last_words(tmp_path):
    with Worker("tests.experiments.nowhere", tmp_path / "log") as worker:
        with pytest.raises(Failed, match=r"ended with status 1: .*No module named tests.experiments.nowhere"):
            worker.ask(calls=1)
        assert worker.process.poll() == 1


def test_the_gpus_cases_are_those_that_are_published():
    found = SETUPS["gpu"].cases
    assert len(found) == len(set(found)) == 20
    assert found[0] == Case("training", 50, 8, 769, 769, "bfloat16")  # the most telling first
    sizes = {(case.task, case.batch, case.height, case.width) for case in found}
    assert ("training", 1, 1024, 2048) not in sizes
    assert {size[1:] for size in sizes} == {(8, 769, 769), (16, 512, 512), (1, 1024, 2048)}


def test_inputs_are_the_same_in_every_process():
    case = Case("training", 50, 2, 5, 7, "float32")
    images, labels = cases.images(case), cases.labels(case)
    assert (images.shape, images.dtype) == ((2, 5, 7, 3), np.uint8)
    assert set(np.unique(labels)) <= {*range(cases.CLASSES), cases.VOID}
    np.testing.assert_array_equal(images, cases.images(case))
    np.testing.assert_array_equal(labels, cases.labels(case))
