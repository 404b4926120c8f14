"""The records of a run: its config and its classes."""

import json

import numpy as np
import pytest

from ccnet_jax.common.errors import UserError
from ccnet_jax.config import records
from ccnet_jax.config.config import to_dict
from ccnet_jax.data.datasets.streets import Streets
from ccnet_jax.engine.folder import RunFolder
from tests.helpers import load_config


def test_a_folder_without_a_config_is_no_run(tmp_path):
    with pytest.raises(UserError, match=r"is not a run: it has no config.json; train first"):
        records.load_config(RunFolder(tmp_path))
    with pytest.raises(UserError, match="is not a run"):
        records.load_config(RunFolder(tmp_path / "nowhere"))


WHOLE = to_dict(load_config("demo"))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (
            {},
            "holds no config: it has none of the groups hosts, data, model, optimizer, loss, detection",
        ),
        ([1], r"holds no config, but \[1\]; restore that file"),
        (3, "holds no config, but 3; restore that file"),
        (None, "holds no config, but null; restore that file"),
        (WHOLE | {"model": "ccnet"}, "has as its group 'model' no keys, but \"ccnet\"; restore that file"),
        (WHOLE | {"steps": float("nan")}, "config.steps must be a whole number that is at least 1, not nan"),
        (
            WHOLE | {"optimizer": WHOLE["optimizer"] | {"learning_rate": float("inf")}},
            "config.optimizer.learning_rate must be a number that is above 0, not inf",
        ),
    ],
)
def test_a_corrupt_config_is_one_message(tmp_path, value, words):
    run = RunFolder(tmp_path)
    run.config_file.write_text(json.dumps(value))
    for read in (lambda: records.load_config(run), lambda: records.check_same_run(run, load_config("demo"))):
        with pytest.raises(UserError, match=f"config.json:? {words}") as error:
            read()
        assert "\n" not in str(error.value)


def test_a_run_without_its_config_is_not_gone_on_with(tmp_path):
    with pytest.raises(
        UserError, match="has checkpoints but no config.json, which says of what; restore that"
    ):
        records.check_same_run(RunFolder(tmp_path), load_config("demo"))


def test_classes_come_back(tmp_path):
    run, source = RunFolder(tmp_path / "new"), Streets("val")
    records.save_classes(run, source.label_classes)
    classes = records.load_classes(run)
    assert classes.names == source.classes
    np.testing.assert_array_equal(classes.palette, source.palette)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        '{"classes": 3}',
        '{"classes": ["a"], "palette": [[0, 0, 999]]}',
        '{"classes": [1], "palette": [[0, 0, 9]]}',
        '{"classes": ["a", "b"], "palette": [[0, 0, 9]]}',
        "[1]",
        "[" * 100_000,
    ],
)
def test_corrupt_classes_are_named(text, tmp_path):
    (tmp_path / "classes.json").write_text(text)
    with pytest.raises(UserError, match=r"classes.json cannot be read.*restore it"):
        records.load_classes(RunFolder(tmp_path))
