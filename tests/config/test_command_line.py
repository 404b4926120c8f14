"""What all programs have in common around their work: how they start, and how they end."""

import pathlib
import resource
import signal
import time

import pytest
from absl import logging

from ccnet_jax.common import signals
from ccnet_jax.config import command_line
from tests import helpers


@pytest.fixture(autouse=True)
def handlers_stay():
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


def test_what_orbax_reports_is_not_printed(capfd):
    before = logging.get_verbosity()
    try:
        command_line.run(lambda: logging.error("a traceback"))
    finally:
        logging.set_verbosity(before)
    assert "a traceback" not in capfd.readouterr().err


def test_ctrl_c_is_exit_code_130_without_a_traceback(capfd):
    def interrupted():
        signal.raise_signal(signal.SIGINT)

    signal.signal(signal.SIGINT, signal.SIG_DFL)  # as at the start of a program
    with pytest.raises(SystemExit) as ended:
        command_line.run(interrupted)
    assert ended.value.code == 130
    assert capfd.readouterr().err == ""


@pytest.fixture(autouse=True)
def ctrl_c_is_heard():
    """The programs of a shell's background jobs ignore Ctrl-C, and those that they start do, too."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_while_a_program_imports_ends_it_at_once(tmp_path):
    process = helpers.start("ccnet_jax.train", "--list", cwd=tmp_path)
    maps = pathlib.Path(f"/proc/{process.pid}/maps")
    deadline = time.monotonic() + 60
    while "jaxlib" not in maps.read_text():  # the first of what takes long
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (-signal.SIGINT, "", "")


@pytest.mark.parametrize(
    ("words", "ours"),
    [
        (["python", "-m", "ccnet_jax.train", "demo"], True),
        (["python", "-X", "dev", "-m", "ccnet_jax"], True),
        (["/env/bin/python", "/env/bin/ccnet", "train"], True),
        (["python", "-m", "pytest", "ccnet_jax"], False),
        (["python", "-m", "ccnet_jax_too"], False),
        (["python", "mine.py", "ccnet"], False),
        (["python", "-m"], False),
    ],
)
def test_only_our_programs_change_how_ctrl_c_ends_them(words, ours):
    assert signals.is_program(words) == ours


def test_inside_ctrl_c_is_the_systems_and_then_what_it_was():
    before = signal.getsignal(signal.SIGINT)
    with signals.interrupted_at_once():
        assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(
    ("limits", "wanted"),
    [
        ((256, 4096), (4096, 4096)),
        ((256, 10**9), (65536, 10**9)),
        ((256, resource.RLIM_INFINITY), (65536, resource.RLIM_INFINITY)),
        ((10**6, 10**6), (10**6, 10**6)),
        ((24, 40), (40, 40)),
    ],
)
def test_as_many_files_may_be_open_as_the_system_allows(limits, wanted, monkeypatch, capfd):
    found = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits)
    monkeypatch.setattr(resource, "setrlimit", lambda _, values: found.append(values))
    if wanted[0] >= command_line.LEAST_FILES:
        command_line.run(lambda: None)
    else:
        with pytest.raises(SystemExit):
            command_line.run(lambda: None)
        assert "no more than 40 files open here, and 128 are needed; let" in capfd.readouterr().err
    assert found == [wanted]
