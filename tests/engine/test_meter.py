import functools
import json
import re

import jax.numpy as jnp
import pytest

from ccnet_jax.engine.meter import Meter, NotFinite
from ccnet_jax.training.step import GUARDED

new_meter = functools.partial(Meter, guarded=GUARDED)
NORMS = {"gradient_norm": 1, "parameter_norm": 2}


def metrics(loss, norm=1.0):
    return {"loss": jnp.float32(loss), "gradient_norm": jnp.float32(norm), "parameter_norm": jnp.float32(2)}


def take(meter, losses, first=1):
    for step, loss in enumerate(losses, first):
        meter.add(step, metrics(loss))
        meter.wait()


def test_what_is_logged_are_means_over_the_interval():
    meter = new_meter(0)
    take(meter, [1, 2, 6])
    assert meter.means() == {"loss": 3} | NORMS
    take(meter, [5], first=4)
    assert meter.means() == {"loss": 5} | NORMS
    assert meter.step == 4


def test_a_process_that_goes_on_knows_the_same():
    whole, first = new_meter(0, skip=1, spike=2.0), new_meter(0, skip=1, spike=2.0)
    losses = [0.1 * i for i in range(1, 41)]
    losses[5] = float("inf")
    take(whole, losses)
    take(first, losses[:23])
    second = new_meter(23, skip=1, spike=2.0)
    second.go_on_from(json.loads(json.dumps(first.progress())))
    take(second, losses[23:], first=24)
    assert second.means() == whole.means()
    assert first.remarks() + second.remarks() == whole.remarks() != []
    second.add(41, metrics(float("nan")))
    with pytest.raises(NotFinite):
        second.wait()


def test_what_is_kept_stays_as_it_was_while_training_goes_on():
    meter = new_meter(0)
    take(meter, [1, 2, 6])
    kept = meter.progress()
    before = json.dumps(kept)
    take(meter, [5], first=4)
    assert json.dumps(kept) == before


def test_a_step_that_is_not_finite_stops_unless_it_may_be_skipped():
    for values in metrics(float("nan")), metrics(1.0, float("inf")):
        meter = new_meter(6, skip=1)
        meter.add(7, values)
        meter.wait()
        assert meter.step == 7
        ((step, words),) = meter.remarks()
        assert step == 7
        assert re.fullmatch("is skipped: the (loss is nan|gradient's norm is inf), 1. time", words)
        assert meter.means() == {"skipped_steps": 1}
        take(meter, [2], first=8)
        assert meter.means() == {"loss": 2, "skipped_steps": 1} | NORMS
        meter.add(9, values)
        with pytest.raises(NotFinite) as trouble:
            meter.wait()
        assert (trouble.value.step, trouble.value.made) == (9, 7)  # of 1 to 8 one was skipped
        assert (meter.step, meter.steps_made) == (8, 7)  # the state is that after it


def test_only_the_numbers_that_are_not_finite_are_named():
    meter = new_meter(0)
    meter.add(1, metrics(3.59) | {"parameter_norm": jnp.float32("inf")})
    with pytest.raises(NotFinite) as trouble:
        meter.wait()
    assert trouble.value.words == "the new weights' norm is inf"


def test_a_loss_far_above_the_usual_is_told():
    meter = new_meter(0, spike=10.0)
    take(meter, [100, *[1.0] * 30, 9, 11])
    ((step, words),) = meter.remarks()
    assert step == 33
    assert words == "has a loss of 11, where 1 is usual"
    assert meter.remarks() == []
