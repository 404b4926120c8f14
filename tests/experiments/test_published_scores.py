"""Made-up weights under the published names, through conversion and scoring."""

import argparse
import json
import types

import pytest

from ccnet_jax.common.errors import UserError
from ccnet_jax.data.datasets.cityscapes import DATA_SET
from ccnet_jax.engine.folder import RunFolder
from ccnet_jax.weights.torch_export import export_weights
from experiments import published, published_scores
from tests import helpers
from tests.miniatures import write_cityscapes

pytestmark = pytest.mark.slow

CONFIG = "cityscapes:mmseg-r50-512x1024-40k"


def test_every_published_file_has_a_config_and_a_score():
    scores = published.published_scores()
    assert len(published.MMSEG_FILES) == 16
    for config, file in published.MMSEG_FILES.items():
        assert scores[config][0] is not None
        name, _, variant = config.partition(":")
        depth, crop, steps = variant.removeprefix("mmseg-").split("-")
        assert file.startswith(f"ccnet_{depth}-d8_{crop}_{steps}_{name}_")


def test_files_are_converted_scored_and_compared(tmp_path, monkeypatch, capsys):
    config = helpers.load_config(CONFIG, model__width=1 / 16)
    run = RunFolder(tmp_path / "made")
    known = types.SimpleNamespace(classes=DATA_SET.classes.names, palette=DATA_SET.classes.palette)
    helpers.write_run(run.path, config, known)
    files = tmp_path / "files"
    files.mkdir()
    file = (files / published.MMSEG_FILES[CONFIG]).with_suffix(".safetensors")
    export_weights(run, file)
    data = write_cityscapes(tmp_path / "cityscapes", size=(16, 128))  # tested as 256x2048
    output = tmp_path / "result.json"
    command = [str(files), "--cityscapes", str(data), "--limit", "1", "--width", str(1 / 16)]
    command += ["--runs", str(tmp_path / "runs"), "--output", str(output)]
    published_scores.main(command)
    assert "published 77.76 %: not comparable" in capsys.readouterr().out
    report = json.loads(output.read_text())
    (row,) = report["rows"]
    assert (row["config"], row["images"], row["file"]) == (CONFIG, 1, file.name)
    assert (
        f"| 77.76 | {100 * row['mIoU'] - 77.76:+.2f} | - | 78.87 | - |"
        in published_scores.tables(report)["scores"]
    )

    def again(*_):
        raise AssertionError("it was scored before")

    monkeypatch.setattr(published_scores.evaluate, "main", again)
    published_scores.main(command)
    assert json.loads(output.read_text())["rows"] == report["rows"]


@pytest.mark.parametrize(
    ("difference", "width", "limit", "word"),
    [
        (0.04, None, None, "agrees"),
        (-0.06, None, None, "DIFFERS"),
        (0.0, 0.25, None, "not comparable"),
        (0.0, None, 5, "not comparable"),
    ],
)
def test_only_whole_scores_of_real_weights_are_judged(difference, width, limit, word):
    flags = argparse.Namespace(width=width, limit=limit)
    assert published_scores.verdict(difference, flags) == word


def test_files_that_are_missing_or_corrupt(tmp_path, capsys):
    with pytest.raises(SystemExit):
        published_scores.main([str(tmp_path)])
    assert "has 0 of the 16 published files; fetch some" in capsys.readouterr().err
    file = tmp_path / published.MMSEG_FILES[CONFIG]
    file.write_bytes(b"cut off")
    with pytest.raises(SystemExit):
        published_scores.main([str(tmp_path)])
    assert "has 1 of the 16 published files; name the folders of their data sets" in capsys.readouterr().err
    with pytest.raises(UserError, match="is corrupt: its SHA-256 begins with .*; fetch it again"):
        published_scores.main([str(tmp_path), "--cityscapes", "/nowhere"])
