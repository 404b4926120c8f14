import time

import pytest

from ccnet_jax.engine import save_timer
from ccnet_jax.engine.save_timer import RETRY, SaveTimer


@pytest.fixture
def clock(monkeypatch):
    """Its `now` is the time."""

    class Clock:
        now = 0.0

        def monotonic(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(save_timer, "time", clock)
    return clock


def test_after_so_many_minutes(clock):
    timer = SaveTimer(minutes=5)
    clock.now = 299
    assert not timer.is_late()
    clock.now = 300
    assert timer.is_late()
    timer.note_saved()
    assert not timer.is_late()


def test_one_that_failed_is_tried_again_after_a_while(clock):
    timer = SaveTimer(minutes=None)
    timer.note_failed()
    assert not timer.is_late()
    clock.now = RETRY
    assert timer.is_late()
    timer.note_saved()
    assert not timer.is_late()


def test_a_clock_that_goes_backwards_holds_nothing_up(monkeypatch):
    timer = SaveTimer(minutes=1e-9)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert timer.is_late()
