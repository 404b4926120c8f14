import importlib.util
import json

import numpy as np
import pytest

from ccnet_jax.config.config import default, parse
from ccnet_jax.models.detection.config import DetectionConfig
from ccnet_jax.tasks import TASKS
from experiments import instance_speed
from experiments.speed import cases, instance_cases, instance_jax
from experiments.speed.instance_cases import CASE


@pytest.fixture
def installed(monkeypatch):
    """Both contenders are `fake_contender`."""
    fakes = dict.fromkeys(instance_cases.PROGRAMS, "tests.experiments.fake_contender")
    monkeypatch.setattr(instance_speed, "PROGRAMS", fakes)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)


def test_both_stand_in_one_table(installed, capsys):
    instance_speed.main(["--toy", "--rounds", "2"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("| case |  | ms, middle half of the rounds | JAX's time over this |")
    assert [line.split(" | ")[:2] for line in lines[2:]] == [
        ["| training R-18 1x64x64 float32", name] for name in ("torchvision", "jax")
    ]
    assert "| 1.00 |" in lines[3]
    assert lines[3].endswith("| 7.00 | 3.00 |")


def test_every_case_is_in_the_file(installed, tmp_path):
    instance_speed.main(["--toy", "--output", str(tmp_path / "speed.json")])
    report = json.loads((tmp_path / "speed.json").read_text())
    assert report["finished"]
    assert report["toy"]
    (case,) = report["cases"]
    assert case["case"]["depth"] == 18
    assert [len(x["rounds"]) for x in case["contenders"].values()] == [2, 2]


def test_a_failure_is_named(installed, monkeypatch, capsys):
    monkeypatch.setitem(instance_speed.PROGRAMS, "torch.compile", "tests.experiments.fake_contender")
    with pytest.raises(SystemExit) as exit_:
        instance_speed.main(["--toy"])
    assert exit_.value.code == 1
    assert "training R-18 1x64x64 float32, torch.compile: no compiler" in capsys.readouterr().err


def test_without_torchvision_a_message_says_so(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as exit_:
        instance_speed.main(["--toy"])
    assert exit_.value.code == 2
    assert "torchvision is not installed; install torchvision" in capsys.readouterr().err


def test_the_objects_are_a_batch_of_the_loader():
    config = default()
    config.task = "instance"
    config.data.name = "coco"
    batch = instance_jax.objects(CASE, DetectionConfig()) | {"image": cases.images(CASE)}
    wanted = TASKS["instance"].shapes(parse(config, {}), (CASE.height, CASE.width), CASE.batch)
    assert {name: (x.shape, x.dtype) for name, x in batch.items()} == {
        name: (x.shape, np.dtype(x.dtype)) for name, x in wanted.items()
    }
    boxes = batch["boxes"][batch["used"]]
    assert len(boxes) == CASE.batch * instance_cases.OBJECTS
    assert (boxes[:, 2:] - boxes[:, :2] >= 24).all()
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] <= [CASE.width, CASE.height]).all()
    assert batch["classes"].max() < instance_cases.CLASSES
