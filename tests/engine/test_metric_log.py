"""What a run logged: read again where it goes on, and told where it cannot be."""

import json

import pytest

from ccnet_jax.common.errors import UserError
from ccnet_jax.engine.folder import RunFolder
from ccnet_jax.engine.metric_log import MetricLog, points, read_log
from tests.helpers import small_files_only


def test_lines_after_the_start_and_corrupt_ones_are_dropped(tmp_path):
    run = RunFolder(tmp_path)
    whole = [json.dumps({"step": step, "loss": 1.0}) for step in (1, 2, 3)]
    corrupt = ["[1]", "3", '{"loss": 1}', '{"step": "2"}', '{"step": 2, "lo', "[" * 100_000, "\xff"]
    run.metrics_file.write_bytes("\n".join([whole[0], *corrupt, *whole[1:]]).encode("latin-1"))
    with MetricLog(run, 2) as log:
        log.write(3, {"loss": 2.0})
    lines = run.metrics_file.read_text().splitlines()
    assert lines == [*whole[:2], json.dumps({"step": 3, "loss": 2.0})]


def test_a_folder_in_its_place_is_one_message(tmp_path):
    run = RunFolder(tmp_path)
    run.metrics_file.mkdir()
    with pytest.raises(UserError, match=r"metrics.jsonl cannot be read \(Is a directory\); move it away, or"):
        MetricLog(run, 0)


def test_what_a_full_disk_does_not_take_is_held_and_written_when_there_is_room(tmp_path):
    run = RunFolder(tmp_path)
    lines = [{"step": step, "loss": 0.5 * step, "rate": 0.25} for step in range(1, 41)]

    def write(first, last):
        for line in lines[first:last]:
            log.write(line["step"], {"loss": line["loss"], "rate": line["rate"]})

    with MetricLog(run, 0) as log:
        write(0, 10)
        with small_files_only(600):
            for first in (10, 20):
                write(first, first + 10)
                with pytest.raises(UserError, match=r"metrics.jsonl cannot be written \(File too large"):
                    log.flush()
        write(30, 35)
        log.flush()
        write(35, 40)
    assert read_log(run) == lines
    wanted = [(line["step"], name, line[name]) for line in lines for name in ("loss", "rate")]
    assert sorted(points(run)) == wanted


@pytest.mark.parametrize(
    ("error", "words"), [(UserError("no data"), "no data"), (None, "metrics.jsonl cannot be written")]
)
def test_what_is_held_at_the_end_is_an_error_unless_there_is_another(error, words, tmp_path):
    def logging_ends():
        with MetricLog(RunFolder(tmp_path), 0) as log:
            for step in range(100):
                log.write(step, {"loss": 1.0})
            if error:
                raise error

    with small_files_only(100), pytest.raises(UserError, match=words):
        logging_ends()


def test_lines_that_are_no_records_are_left_out_with_one_warning(tmp_path, said):
    """Data from outside; a last line that was cut off is no reason to say anything."""
    run = RunFolder(tmp_path)
    odd = [
        b'{"step": "3", "loss": 1.0}',
        b'{"step": 1, "loss": "x"}',
        b'{"step": true}',
        b"[1]",
        b"\xff\xfe",
        b"[" * 10**5,
    ]
    odd += [b'{"step": 1, "loss": {"a": 1}}', b'{"step": -1}', b'{"step": 1e300}', b'{"loss": 1.0}']
    whole = [b'{"step": 1, "loss": 2.0}', b'{"step": 2, "loss": 1.0}']
    run.metrics_file.write_bytes(b"\n".join([whole[0], *odd, whole[1], b'{"step": 3, "lo']))
    with MetricLog(run, 5):
        pass
    (line,) = said()
    assert f"has {len(odd)} lines that are no records of values" in line
    assert run.metrics_file.read_bytes().splitlines() == whole
    with MetricLog(run, 5):
        pass
    assert len(said()) == 1
