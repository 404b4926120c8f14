import math

import numpy as np
import optax
import pytest

from ccnet_jax.training.schedules import SCHEDULES, ScheduleConfig, build_schedule


def rates(schedule, steps):
    return np.array([float(schedule(step)) for step in steps])


@pytest.mark.parametrize("minimum", [0.0, 1e-4])
def test_poly_rate(minimum):
    config = ScheduleConfig(schedule="poly", learning_rate=0.1, min_learning_rate=minimum, power=0.9)
    steps = np.array([0, 1, 17, 39, 40])
    wanted = (0.1 - minimum) * (1 - steps / 40) ** 0.9 + minimum
    np.testing.assert_allclose(rates(build_schedule(config, 40), steps), wanted, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("minimum", [0.0, 1e-4])
def test_cosine_rate(minimum):
    config = ScheduleConfig(schedule="cosine", learning_rate=0.1, min_learning_rate=minimum)
    steps = np.array([0, 1, 17, 39, 40])
    wanted = [(0.1 - minimum) * (1 + math.cos(math.pi * step / 40)) / 2 + minimum for step in steps]
    np.testing.assert_allclose(rates(build_schedule(config, 40), steps), wanted, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", ["poly", "cosine"])
def test_after_a_linear_rise_the_schedule_takes_the_remaining_steps(name):
    config = ScheduleConfig(schedule=name, learning_rate=0.1, min_learning_rate=1e-3, warmup_steps=8)
    schedule = build_schedule(config, 40)
    np.testing.assert_allclose(rates(schedule, range(8)), np.arange(8) / 8 * 0.1, rtol=1e-6, atol=1e-9)
    wanted = rates(SCHEDULES[name](config, 32), range(33))
    np.testing.assert_array_equal(rates(schedule, range(8, 41)), wanted)
    np.testing.assert_allclose([wanted[0], wanted[-1]], [0.1, 1e-3], rtol=1e-5)


def test_multi_step_falls_at_its_milestones_after_a_rise_from_a_fraction():
    config = ScheduleConfig(
        schedule="multi_step", learning_rate=0.02, milestones=(60, 80), warmup_steps=5, warmup_from=1 / 3
    )
    assert config.problems() == []
    found = rates(build_schedule(config, 90), [0, 1, 4, 5, 59, 60, 79, 80, 89])
    rise = [0.02 * (1 / 3 + 2 / 3 * step / 5) for step in (0, 1, 4)]
    np.testing.assert_allclose(found, [*rise, 0.02, 0.02, 0.002, 0.002, 2e-4, 2e-4], rtol=1e-5)


@pytest.mark.parametrize(
    ("milestones", "message"),
    [
        (None, "needs the steps after which the learning rate falls"),
        ((5, 80), "must come after the warm-up"),
        ((60, 60), "has a step more than once"),
    ],
)
def test_milestones_that_cannot_be_get_a_message(milestones, message):
    config = ScheduleConfig(schedule="multi_step", milestones=milestones, warmup_steps=5)
    assert message in config.problems()[0]
    with pytest.raises(ValueError, match=message):
        build_schedule(config, 90)


def test_milestones_after_the_last_step_get_a_message():
    config = ScheduleConfig(schedule="multi_step", milestones=(60, 80))
    assert config.problems_for(81) == []
    for steps in (80, 40):
        with pytest.raises(ValueError, match=rf"milestones=\(60, 80\) must lie below config.steps={steps}"):
            build_schedule(config, steps)


def test_the_default_has_the_bits_of_earlier_versions():
    config = ScheduleConfig(min_learning_rate=1e-4)
    earlier = optax.polynomial_schedule(1e-2, 1e-4, 0.9, transition_steps=100)
    np.testing.assert_array_equal(rates(build_schedule(config, 100), range(101)), rates(earlier, range(101)))


def test_a_warmup_that_leaves_no_steps_gets_a_message():
    config = ScheduleConfig(warmup_steps=40)
    assert config.problems_for(41) == ScheduleConfig().problems_for(1) == []
    assert config.problems_for(40) == [
        "config.optimizer.warmup_steps=40 must be less than config.steps=40; make it smaller, or train longer"
    ]
    with pytest.raises(ValueError, match="warmup_steps=40"):
        build_schedule(config, 40)


def test_rates_that_rise_get_a_message():
    assert ScheduleConfig().problems() == []
    assert "must be at most" in ScheduleConfig(min_learning_rate=0.1).problems()[0]
