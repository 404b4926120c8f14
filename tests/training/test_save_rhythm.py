import pytest

from ccnet_jax.training import save_rhythm
from ccnet_jax.training.save_rhythm import RETRY, SaveRhythm


@pytest.fixture
def clock(monkeypatch):
    """Its `now` is the time."""

    class Clock:
        now = 0.0

        def monotonic(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(save_rhythm, "time", clock)
    return clock


def test_every_so_many_updates_or_minutes(clock):
    rhythm = SaveRhythm(every=10, minutes=5)
    assert [step for step in range(1, 31) if rhythm.is_due(step)] == [10, 20, 30]
    clock.now = 299
    assert not rhythm.is_due(31)
    clock.now = 300
    assert rhythm.is_due(31)
    rhythm.note_saved()
    assert not rhythm.is_due(32)


def test_one_that_failed_is_tried_again_after_a_while(clock):
    rhythm = SaveRhythm(every=10, minutes=None)
    rhythm.note_failed()
    assert not rhythm.is_due(20)
    clock.now = RETRY
    assert rhythm.is_due(21)
    rhythm.note_saved()
    assert not rhythm.is_due(22)
