"""How programs end where the output or the device fails, and which result files they take."""

import argparse
import os
import sys

import jax
import pytest

from kernels.bench import __main__ as bench
from kernels.bench import check, tune
from kernels.bench.programs import ending_well, no_device, result_file


@pytest.mark.parametrize("buffering", [1, -1])  # each line is written at once, or all at the end
def test_nobody_reads_the_output_any_more(monkeypatch, capsys, buffering):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w", buffering) as broken:
        monkeypatch.setattr(sys, "stdout", broken)
        with pytest.raises(SystemExit) as end, ending_well():
            print("a line")
        assert end.value.code == 141
        broken.write("what is left goes nowhere")
    assert capsys.readouterr().err == ""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device that is always full")
def test_the_output_cannot_be_written(monkeypatch, capsys):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        with pytest.raises(SystemExit) as end, ending_well():
            print("a line")
    assert end.value.code == 2
    message = "error: standard output cannot be written (No space left on device); make room, or write it"
    assert capsys.readouterr().err.startswith(message)


def test_other_errors_are_left_alone(capfd):
    with pytest.raises(ZeroDivisionError), ending_well():
        raise ZeroDivisionError
    with pytest.raises(BrokenPipeError), ending_well():
        raise BrokenPipeError  # of another pipe than the output's
    with pytest.raises(SystemExit) as end, ending_well():
        raise SystemExit(3)
    assert end.value.code == 3


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError("Unknown backend 'x'. (set JAX_PLATFORMS='' to choose)"), " (Unknown backend 'x'.)"),
        (AssertionError(), ""),
    ],
)
def test_a_device_that_is_not_there(monkeypatch, capsys, error, reason):
    def devices():
        raise error

    assert no_device() is None
    monkeypatch.setattr(jax, "devices", devices)
    with pytest.raises(SystemExit) as end, ending_well():
        jax.devices()
    assert end.value.code == 2
    assert capsys.readouterr().err == (
        f"error: JAX_PLATFORMS=cpu names a device that JAX does not find here{reason}; unset it, and JAX "
        "takes what there is\n"
    )


def test_a_result_file_is_checked_before_anything_is_measured(tmp_path, capsys):
    assert result_file(str(tmp_path / "a" / "b.json")) == tmp_path / "a" / "b.json"
    with pytest.raises(argparse.ArgumentTypeError, match="is a folder; name another file"):
        result_file(str(tmp_path))
    with pytest.raises(SystemExit):
        bench.main(["--toy", "--output", str(tmp_path)])
    assert f"argument --output: {tmp_path} is a folder; name another file" in capsys.readouterr().err
    blocks = tmp_path / "blocks.json"
    for text, output, words in (
        ("[1]", tmp_path / "new.json", "cannot be read"),
        ('{"rows": []}', blocks, "would replace the block sizes of --blocks; name another file"),
    ):
        blocks.write_text(text)
        with pytest.raises(SystemExit):
            bench.main(["--toy", "--blocks", str(blocks), "--output", str(output)])
        assert words in capsys.readouterr().err
        assert blocks.read_text() == text


@pytest.mark.parametrize("program", [bench, check, tune], ids=lambda module: module.__name__)
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--bogus"], "unrecognized arguments: --bogus"),
        (["--out", "a.json"], "unrecognized arguments: --out a.json"),  # no abbreviation
        (["--output"], "argument --output: expected one argument"),
        (["--output", "/"], "argument --output: / is a folder; name another file"),
    ],
    ids=str,
)
def test_a_mistake_is_one_message(program, flags, words, capsys):
    with pytest.raises(SystemExit) as end:
        program.main(flags)
    assert end.value.code == 2
    said = capsys.readouterr()
    assert said.err == f"error: {words}; --help lists what there is\n"
    assert said.out == ""


@pytest.mark.parametrize(
    ("flag", "text", "words"),
    [
        *(
            ("--shapes", x, "must be BATCHxHEIGHTxWIDTH")
            for x in ("1x2", "1x2xa", "0x9x9", "9x9x99999999999", "")
        ),
        ("--dtypes", "float64", "must be of"),
    ],
)
def test_a_wrong_list_is_one_message(flag, text, words, capsys):
    with pytest.raises(SystemExit):
        tune.main(["--toy", flag, text])
    said = capsys.readouterr().err
    assert said.startswith(f"error: argument {flag}: {text[:60]!r} {words}")
    assert said.count("\n") == 1
