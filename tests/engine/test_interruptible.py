import threading

import pytest

from ccnet_jax.engine.interruptible import interruptible


def test_items_come_in_their_order_and_then_end():
    assert list(interruptible(iter(range(5)), pytest.fail)) == list(range(5))
    assert list(interruptible([], pytest.fail)) == []


def test_an_error_reaches_the_one_who_waits():
    def items():
        yield 1
        raise OSError("the drive is gone")

    found = interruptible(items(), pytest.fail)
    assert next(found) == 1
    with pytest.raises(OSError, match="the drive is gone"):
        next(found)


def test_a_wait_can_be_ended():
    released = threading.Event()

    def items():
        released.wait()
        yield 1

    def end():
        raise TimeoutError

    with pytest.raises(TimeoutError):
        next(interruptible(items(), end))
    released.set()
