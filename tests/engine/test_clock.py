import types
from concurrent.futures import Future

import jax
import jax.numpy as jnp
import pytest

from ccnet_jax.engine import clock as clock_module
from ccnet_jax.engine.clock import StepClock
from ccnet_jax.training.step import State

STATE = State(jnp.int32(0), {}, {})
METRICS = {"loss": jnp.float32(1)}


def batch(height=32):
    return {"image": jnp.zeros((4, height, 48, 3), "uint8"), "label": jnp.zeros((4, height, 48), "uint8")}


class Time:
    """A clock to set, and devices that work until `end_step` is called."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        self.step: Future[float] = Future()
        monkeypatch.setattr(clock_module, "time", types.SimpleNamespace(perf_counter=lambda: self.now))
        watcher = types.SimpleNamespace(submit=self.begin_step, shutdown=lambda: None)
        monkeypatch.setattr(clock_module, "ThreadPoolExecutor", lambda _: watcher)

    def begin_step(self, *_):
        if not self.step.done():
            self.end_step()  # training waits for it before it begins another
        self.step = Future()
        return self.step

    def pass_by(self, seconds):
        self.now += seconds

    def end_step(self):
        self.step.set_result(self.now)


@pytest.fixture
def time(monkeypatch):
    return Time(monkeypatch)


def steps(clock, time, loading, train_step, count):
    """`count` updates, each after a batch that `loading()` takes its time to load."""

    def batches():
        while True:
            loading()
            yield batch()

    train_step = clock.measure_steps(train_step)
    for _, loaded in zip(range(count), clock.measure_batches(batches()), strict=False):
        train_step(STATE, loaded)


def test_waiting_for_data_is_a_fraction_of_the_time_and_worth_a_hint(time):
    def loading():
        time.pass_by(3)

    def train_step(state, batch):
        time.pass_by(2)
        return state, METRICS

    clock = StepClock(4, start=0, steps=10, began=90.0)
    submit = clock._watcher.submit

    def submit_and_end(*arguments):
        submitted = submit(*arguments)
        time.end_step()
        return submitted

    clock._watcher.submit = submit_and_end
    steps(clock, time, loading, train_step, 2)
    values = clock.read(2)
    assert values == {
        "images_per_second": 4 * 2 / 7,  # the first batch's 3 s were the start of the loader
        "data_wait_fraction": 3 / 7,
        "seconds_left": 8 * 7 / 2,
        "compile_seconds": 0.0,
        "save_seconds": 0.0,
        "seconds_to_first_step": 15.0,
    }
    assert [hint for hint in clock.hints() if "43% of the time" in hint and "data.workers" in hint]
    steps(clock, time, loading, train_step, 2)
    assert clock.read(4)["data_wait_fraction"] == 6 / 10
    assert clock.hints() == []  # one hint, at the first log


def test_loading_while_the_devices_work_is_no_waiting(time):
    def slow_loading():
        time.pass_by(3)

    def loading_until_after_the_step():
        time.pass_by(2)
        if not time.step.done():
            time.end_step()
        time.pass_by(1)

    def train_step(state, batch):
        return state, METRICS

    clock = StepClock(4, start=0, steps=10, began=0.0)
    steps(clock, time, slow_loading, train_step, 3)
    time.end_step()
    assert clock.read(3)["data_wait_fraction"] == 0
    assert clock.hints() == []
    steps(clock, time, loading_until_after_the_step, train_step, 2)
    # both batches took 3 s; before the first no step was running, since `read` had waited for it
    assert clock.read(5)["data_wait_fraction"] == pytest.approx((3 + 1) / 6)


def test_validation_is_not_counted_and_saving_apart(time):
    clock = StepClock(4, start=6, steps=10, began=0.0)
    time.pass_by(1)
    with clock.pause():
        time.pass_by(50)
    with clock.pause(saving=True):
        time.pass_by(5)
    time.pass_by(1)
    values = clock.read(8)
    assert values["images_per_second"] == 4
    assert values["seconds_left"] == 2
    assert values["save_seconds"] == 5
    time.pass_by(1)
    assert clock.read(9)["save_seconds"] == 0


def test_compiling_is_counted_apart_and_once_again_is_a_warning(time):
    @jax.jit
    def compiled(image):
        time.pass_by(10)  # while JAX traces
        return jnp.float32(image.shape[1])

    def train_step(state, batch):
        time.pass_by(1)
        return state, {"loss": compiled(batch["image"])}

    with StepClock(4, start=0, steps=10, began=0.0) as clock:
        watched = clock.measure_steps(train_step)
        readings, hints = [], []
        for step, height in enumerate((32, 32, 40, 48, 40), start=1):
            watched(STATE, batch(height))
            time.end_step()
            time.pass_by(1)
            readings.append(clock.read(step))
            hints += clock.hints()
    assert [reading["compile_seconds"] for reading in readings] == [11, 0, 11, 11, 0]
    assert [reading["images_per_second"] for reading in readings] == [4, 2, 4, 4, 2]
    assert len(hints) == 1
    assert hints[0].startswith("warning: images of shape [4, 40, 48, 3] made JAX compile the step again")
    assert "config.data.crop" in hints[0]


def test_the_end_of_a_step_is_when_the_devices_have_its_metrics():
    with StepClock(4, start=0, steps=1, began=0.0) as clock:
        clock.measure_steps(lambda state, batch: (state, METRICS))(STATE, batch())
        assert 0 < clock.read(1)["seconds_to_first_step"] <= clock_module.time.perf_counter()
