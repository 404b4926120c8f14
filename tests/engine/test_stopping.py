import fcntl
import os
import pathlib
import pty
import re
import signal
import subprocess
import sys
import tempfile
import termios
import threading
import time
import types

import pytest

from ccnet_jax.common.signals import STOPPING
from ccnet_jax.engine import stopping
from ccnet_jax.engine.stopping import Stopped, StopSignal
from tests.helpers import ROOT, wait_for


@pytest.fixture
def ended(monkeypatch):
    """The codes with which the process would have ended, and an event of the first."""
    codes, event = [], threading.Event()

    def end(_, number):
        codes.append(128 + number)
        event.set()

    monkeypatch.setattr(StopSignal, "_end", end)
    return codes, event


def send(number):
    os.kill(os.getpid(), number)


def test_a_first_signal_is_noted_and_told_and_the_handlers_come_back(ended, said):
    before = signal.getsignal(signal.SIGINT)
    with StopSignal() as stop:
        stop.nothing_to_save = None
        assert stop.agreed_signal() == 0
        stop.check()
        send(signal.SIGINT)
        assert stop.agreed_signal() == signal.SIGINT
        with pytest.raises(Stopped) as stopped:
            stop.check()
        assert stopped.value.number == signal.SIGINT
        wait_for(said)
    assert signal.getsignal(signal.SIGINT) == before
    assert ended[0] == []


def test_in_a_wait_that_may_last_a_stop_is_obeyed_late(ended, monkeypatch):
    link = types.SimpleNamespace(stop_signal=0)
    monkeypatch.setattr(stopping, "TIMEOUT", 0.2)
    stop = StopSignal(link=link)
    stop.check_late()
    link.stop_signal = signal.SIGTERM  # another process has received it
    stop.check_late()  # from here on
    time.sleep(0.3)
    with pytest.raises(Stopped) as stopped:
        stop.check_late()
    assert stopped.value.number == signal.SIGTERM


def test_a_second_signal_ends_the_process_at_once(ended, said):
    codes, event = ended
    with StopSignal() as stop:
        stop.nothing_to_save = None
        send(signal.SIGINT)
        wait_for(said)
        send(signal.SIGTERM)
        assert event.wait(10)
    assert codes == [143]


def test_where_nothing_is_to_be_saved_a_signal_is_obeyed_in_time(ended, monkeypatch):
    codes, event = ended
    monkeypatch.setattr(stopping, "TIMEOUT", 0.2)
    finished = threading.Event()
    with StopSignal() as stop:
        stop.nothing_to_save = None
        send(signal.SIGTERM)
        assert not event.wait(0.6)  # a step is under way
        stop.nothing_to_save = finished.set
        assert event.wait(10)
    assert finished.is_set()
    assert codes == [143]


def test_where_nothing_is_to_be_saved_a_process_ends_the_others_with_it(ended, monkeypatch):
    _, event = ended
    monkeypatch.setattr(stopping, "TIMEOUT", 0.2)
    told, order = [], []

    class Others:
        def ask(self, received):
            order.append(f"asked by {received}")

        def fail(self, message, code):
            told.append((message, code, list(order), event.is_set()))

    with StopSignal(Others()) as stop:
        stop.nothing_to_save = lambda: order.append("saved")
        send(signal.SIGTERM)
        assert event.wait(10)
    message, code, before, too_late = told[0]
    assert message.startswith("it was stopped by SIGTERM; all is saved")
    assert (code, before, too_late) == (143, ["asked by 15", "saved"], False)


@pytest.mark.parametrize("number", STOPPING)
def test_every_signal_that_asks_for_an_end_is_noted(number, ended, said):
    with StopSignal() as stop:
        stop.nothing_to_save = None
        send(number)
        assert stop.agreed_signal() == number
        wait_for(said)


def test_a_second_hangup_is_the_first_one_and_nohups_stays_ignored(ended, said):
    with StopSignal() as stop:
        stop.nothing_to_save = None
        send(signal.SIGHUP)
        wait_for(said)
        send(signal.SIGHUP)
        send(signal.SIGTERM)
        assert ended[1].wait(10)
        assert ended[0][0] == 128 + signal.SIGTERM  # and none before
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignal() as stop:
            send(signal.SIGHUP)
            assert stop.agreed_signal() == 0
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_terminal_that_is_closed_is_written_no_more():
    """The whole: a program in a terminal of its own, which goes while it works."""
    code = """if True:
        import sys, time
        from ccnet_jax.common.log import say
        from ccnet_jax.common.progress import progress_bar
        from ccnet_jax.engine.stopping import StopSignal
        with StopSignal() as stop, progress_bar(total=10**9, unit="step") as bar:
            stop.nothing_to_save = None
            print("begun", flush=True)
            deadline = time.monotonic() + 60
            while not stop.agreed_signal() and time.monotonic() < deadline:
                time.sleep(0.01)
            time.sleep(0.3)
            for _ in range(1000):
                bar.update()
            say("a line")
            print("another", flush=True)
        open(sys.argv[1], "w").write(str(stop.agreed_signal()))
    """
    with tempfile.TemporaryDirectory() as folder:
        result = pathlib.Path(folder, "result")
        main, terminal = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(result)],
            cwd=ROOT,
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(terminal)
        seen = b""
        while b"begun" not in seen:
            seen += os.read(main, 1000)
        os.close(main)  # the system sends SIGHUP
        assert process.wait(60) == 0
        assert result.read_text() == str(int(signal.SIGHUP))


def test_slurms_script_hands_the_signal_on_and_is_queued_again(tmp_path):
    """The script of docs/hosts.md, as the batch shell runs it; the program and scontrol are stand-ins."""
    (script,) = re.findall(
        r"```text\n(#!/bin/bash\n(?:(?!```).)*B:USR1.*?)```", (ROOT / "docs/hosts.md").read_text(), re.S
    )
    program = """if True:
        import pathlib, time
        from ccnet_jax.engine.stopping import StopSignal
        with StopSignal() as stop:
            stop.nothing_to_save = None
            pathlib.Path("begun").touch()
            while not stop.agreed_signal():
                time.sleep(0.01)
        raise SystemExit(128 + stop.agreed_signal())
    """
    (tmp_path / "python").write_text(f"#!/bin/sh\nexec {sys.executable} -c '{program}'\n")
    (tmp_path / "scontrol").write_text('#!/bin/sh\necho "$@" > queued\n')
    for name in ("python", "scontrol"):
        (tmp_path / name).chmod(0o755)
    variables = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7", "PYTHONPATH": str(ROOT)}
    shell = subprocess.Popen(["bash", "-c", script], cwd=tmp_path, env=os.environ | variables)
    wait_for((tmp_path / "begun").exists)
    shell.send_signal(signal.SIGUSR1)
    assert shell.wait(60) == 128 + signal.SIGUSR1
    assert (tmp_path / "queued").read_text() == "requeue 7\n"
