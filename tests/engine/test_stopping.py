import os
import signal
import threading
import time
import types

import pytest

from ccnet_jax.engine import stopping
from ccnet_jax.engine.stopping import Stopped, StopSignal
from tests.helpers import wait_for


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
