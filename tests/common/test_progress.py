"""Progress bars in a terminal and in a log file, on a clock of their own."""

import io
import sys

import pytest

from ccnet_jax.common.progress import progress_bar


class Terminal(io.StringIO):
    """A standard error that says that it is a terminal."""

    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """[seconds], which tests move on."""
    seconds = [1000.0]
    monkeypatch.setattr("tqdm.std.time", lambda: seconds[0])
    return seconds


@pytest.fixture
def log(capsys):
    """What has been written to standard error, which is no terminal in a test."""
    return lambda: capsys.readouterr().err


def test_a_log_gets_a_line_a_minute_and_one_at_the_end(clock, log):
    with progress_bar(total=310, unit="step", desc="train") as bar:
        for step in range(310):
            clock[0] += 0.5
            bar.update()
            bar.set_postfix_str(f"loss {step}")  # asks for a new line each time
    assert log() == (
        "train: 120/310 (39%), 2.00step/s, 01:35 left, loss 118\n"
        "train: 240/310 (77%), 2.00step/s, 00:35 left, loss 238\n"
        "train: 310/310 (100%), 2.00step/s, 00:00 left, loss 309\n"
    )


def test_a_slow_step_is_a_line_and_the_rate_at_the_end_is_the_mean(clock, log):
    with progress_bar(total=14, initial=10, unit="step") as bar:
        for seconds in (100, 100, 100, 20):
            clock[0] += seconds
            bar.update()
    lines = log().splitlines()
    assert [line.split()[0] for line in lines] == ["11/14", "12/14", "13/14", "14/14"]
    assert "80.00s/step" in lines[-1]


@pytest.mark.parametrize("items", [range(150), (i for i in range(150))])
def test_it_loops_over_what_has_a_length_and_what_has_none(clock, log, items):
    seen = []
    for item in progress_bar(items, unit="image"):
        seen.append(item)
        clock[0] += 1
    assert seen == list(range(150))
    lines = log().splitlines()
    assert len(lines) == 3
    assert lines[-1].startswith("150/150 (100%), " if isinstance(items, range) else "150 in 02:30, ")


def test_a_line_at_the_end_is_not_written_twice(clock, log):
    for _ in progress_bar(range(2), unit="image"):
        clock[0] += 60
    assert [line.split()[0] for line in log().splitlines()] == ["1/2", "2/2"]


@pytest.mark.parametrize(("seconds", "lines"), [(1, 0), (20, 3)])
def test_a_bar_that_does_not_stay_writes_its_end_only_after_a_minute(clock, log, seconds, lines):
    for _ in progress_bar(range(7), unit="image", leave=False):
        clock[0] += seconds
    assert log().count("\n") == lines


def test_words_between_are_written_and_repeat_no_line(clock, capsys):
    with progress_bar(total=100, unit="step") as bar:
        for _ in range(70):
            clock[0] += 1
            bar.update()
            bar.write("an evaluation")
    output = capsys.readouterr()
    assert output.out == "an evaluation\n" * 70
    assert [line.split()[0] for line in output.err.splitlines()] == ["60/100", "70/100"]


def test_a_bar_that_is_turned_off_writes_nothing_and_still_loops(clock, log):
    assert list(progress_bar(range(3), unit="image", disable=True)) == [0, 1, 2]
    with progress_bar(total=3, unit="image", disable=True) as bar:
        bar.update()
        bar.set_postfix_str("loss 1")
    assert log() == ""


def test_bytes_are_counted_in_millions(clock, log):
    with progress_bar(total=3_000_000, unit="B", unit_scale=True) as bar:
        clock[0] += 3
        bar.update(3_000_000)
    assert log() == "3.00M/3.00M (100%), 1.00MB/s, 00:00 left\n"


def test_a_terminal_gets_a_bar_that_is_drawn_again(clock, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    for _ in progress_bar(range(5), unit="image"):
        clock[0] += 1
    text = sys.stderr.getvalue()
    assert "\r" in text
    assert "| 5/5 [" in text
