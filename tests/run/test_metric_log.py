"""What a run logged: read again where it goes on, and told where it cannot be."""

import json

import pytest

from ccnet_jax.errors import UserError
from ccnet_jax.run.folder import RunFolder
from ccnet_jax.run.metric_log import MetricLog


def test_lines_after_the_start_and_damaged_ones_are_dropped(tmp_path):
    run = RunFolder(tmp_path)
    whole = [json.dumps({"step": step, "loss": 1.0}) for step in (1, 2, 3)]
    damaged = ["[1]", "3", '{"loss": 1}', '{"step": "2"}', '{"step": 2, "lo', "[" * 100_000, "\xff"]
    run.metrics_file.write_bytes("\n".join([whole[0], *damaged, *whole[1:]]).encode("latin-1"))
    with MetricLog(run, 2) as log:
        log.write(3, {"loss": 2.0})
    lines = run.metrics_file.read_text().splitlines()
    assert lines == [*whole[:2], json.dumps({"step": 3, "loss": 2.0})]


def test_a_folder_in_its_place_is_one_sentence(tmp_path):
    run = RunFolder(tmp_path)
    run.metrics_file.mkdir()
    with pytest.raises(UserError, match=r"metrics.jsonl cannot be read \(Is a directory\); move it away, or"):
        MetricLog(run, 0)
