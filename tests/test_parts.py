"""A part is one file and one line: toys of every kind, from a file outside the package, train and load."""

import contextlib
import json
import pathlib
import shutil
from unittest import mock

import numpy as np
import pytest

import ccnet_jax
from ccnet_jax.config import config_files
from ccnet_jax.data.datasets import DATASETS
from ccnet_jax.models.backbones import BACKBONES
from ccnet_jax.models.contexts import CONTEXTS
from ccnet_jax.tasks.callbacks import CALLBACKS
from ccnet_jax.training.losses import LOSSES
from ccnet_jax.training.optimizers import OPTIMIZERS
from ccnet_jax.training.schedules import SCHEDULES
from kernels.criss_cross import IMPLEMENTATIONS
from tests import helpers

pytestmark = pytest.mark.slow

PARTS = pathlib.Path(__file__).with_name("my_parts.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A user's folder with my_parts.py, and a run of two steps with a toy of every kind."""
    folder = tmp_path_factory.mktemp("user")
    shutil.copy(PARTS, folder / "my_parts.py")
    code, out, err = helpers.run(
        "ccnet_jax.train", "--config=my_parts.py", "--workdir=run", "--config.data.workers=1", cwd=folder
    )
    assert code == 0, err
    assert "mIoU" in out
    return folder


def test_training_used_them(folder):
    lines = [json.loads(line) for line in (folder / "run/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 2]
    assert lines[0]["learning_rate"] == lines[1]["learning_rate"]  # the constant schedule
    sheet = [line.split(",") for line in (folder / "run/loss.csv").read_text().split()]
    assert [(int(step), float(loss)) for step, loss in sheet] == [(x["step"], x["loss"]) for x in lines[:2]]
    config = json.loads((folder / "run/config.json").read_text())
    assert config["model"]["backbone"] == "patches"
    assert config["optimizer"]["name"] == "plain"


def test_programs_take_them_with_a_flag(folder):
    code, out, err = helpers.run("ccnet_jax.eval", "run", "--parts=my_parts.py", cwd=folder)
    assert code == 0, err
    assert "bright" in out
    code, _, err = helpers.run("ccnet_jax.eval", "run", cwd=folder)
    assert code == 2
    assert "'mean' does not exist" in err
    assert "--parts" in err


def test_a_run_with_them_is_resumed(folder):
    shutil.copytree(folder / "run", folder / "more")
    more = ("--resume=more", "--parts=my_parts.py", "--config.steps=3")
    code, out, err = helpers.run("ccnet_jax.train", *more, cwd=folder)
    assert code == 0, err
    assert "going on from step 2" in out


@pytest.fixture
def registered_for_one_test():
    """What the test registers in this process is gone after it."""
    with contextlib.ExitStack() as restored:
        for table in (
            BACKBONES,
            CALLBACKS,
            CONTEXTS,
            DATASETS,
            IMPLEMENTATIONS,
            LOSSES,
            OPTIMIZERS,
            SCHEDULES,
        ):
            restored.enter_context(mock.patch.dict(table))
        yield


@pytest.mark.usefixtures("registered_for_one_test")
def test_they_load_in_a_notebook(folder):
    config_files.module_of(folder / "my_parts.py")  # as `import my_parts` would
    model = ccnet_jax.load(folder / "run")
    assert model.classes == ("dark", "bright")
    image = np.zeros((48, 64, 3), np.uint8)
    assert model.predict(image).label.shape == (48, 64)


def test_a_backend_of_ones_own(folder):
    code, _, err = helpers.run(
        "ccnet_jax.train", "my_parts.py:backend", "--workdir=backend", "--config.eval_every=0", cwd=folder
    )
    assert code == 0, err
    _, _, err = helpers.run("ccnet_jax.predict", "scene.png", "--workdir=backend", cwd=folder)
    assert "scene.png does not exist" in err
