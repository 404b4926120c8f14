"""The average of the weights: its numbers, what it is used for, and that a stop changes nothing of it."""

import dataclasses

import jax
import numpy as np
import pytest

from ccnet_jax import train
from ccnet_jax.common import devices
from ccnet_jax.engine.callbacks.average import Average
from ccnet_jax.engine.checkpoints import AVERAGE, load_arrays, load_variables, step_folder, variables_like
from ccnet_jax.engine.folder import RunFolder
from ccnet_jax.engine.stopping import StopSignal
from ccnet_jax.tasks import TASKS, semantic
from tests.helpers import tiny_camvid

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("shared_programs", "tiny_backbone")]
DECAY = 0.4  # which (1 + step) / (10 + step) reaches after five steps


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    every = {"steps": 8, "log_every": 4, "eval_every": 4, "checkpoint_every": 4}
    return tiny_camvid(tmp_path, **every, average_decay=DECAY)


def in_numpy(tree):
    return jax.tree.map(lambda x: np.asarray(x, np.float64), tree)


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_it_is_what_its_docstring_says_and_what_is_tested_and_kept(config, tmp_path, monkeypatch):
    run, seen, tested = RunFolder(tmp_path / "run"), [], []
    computed, evaluate = Average.after_compute, semantic.evaluate

    def noted(self, state):
        seen.append(in_numpy(state.variables))
        computed(self, state)

    def evaluated(network, variables, *rest, **others):
        tested.append(in_numpy(variables))
        return evaluate(network, variables, *rest, **others)

    def begin(self, state, real=Average.begin):
        seen.append(in_numpy(state.variables))
        real(self, state)

    monkeypatch.setattr(Average, "after_compute", noted)
    monkeypatch.setattr(Average, "begin", begin)
    monkeypatch.setattr(semantic, "evaluate", evaluated)
    train.train(config, run)
    average = seen[0]
    averages = []
    for step, variables in enumerate(seen[1:], 1):
        d = min(DECAY, (1 + step) / (10 + step))
        average = jax.tree.map(lambda old, new, d=d: d * old + (1 - d) * new, average, variables)
        averages.append(average)
    close = lambda a, b: jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, 1e-4, 1e-6), a, b)  # noqa: E731
    assert len(averages) == 8
    for found, step in zip(tested, (4, 8), strict=True):
        close(found, averages[step - 1])
    like = variables_like(TASKS["semantic"].network(config, 11), devices.data_mesh())
    last, step = load_variables(run, "last", like)
    assert step == 8
    close(last, averages[-1])
    close(load_arrays(step_folder(run, "last")), averages[-1])
    best, step = load_variables(run, "best", like)
    close(best, averages[step - 1])
    with pytest.raises(AssertionError):
        close(last, seen[-1])


def test_a_run_that_was_stopped_has_the_same_average(config, tmp_path, monkeypatch):
    whole, parts = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "parts")
    train.train(config, whole)
    with monkeypatch.context() as patch:
        received = iter([0, 0, 15])
        patch.setattr(StopSignal, "agreed_signal", lambda _: next(received))
        with pytest.raises(SystemExit):
            train.train(config, parts)
    train.train(config, parts)
    for which in ("last", "best"):
        assert_same(*(load_arrays(step_folder(run, which)) for run in (whole, parts)))


def test_a_run_may_begin_and_cease_to_average(config, tmp_path):
    run = RunFolder(tmp_path / "run")
    without = dataclasses.replace(config, average_decay=None)
    train.train(dataclasses.replace(without, steps=4), run)
    assert not (step_folder(run, "last") / AVERAGE).exists()
    train.train(dataclasses.replace(config, steps=6), run)
    assert (step_folder(run, "last") / AVERAGE).is_dir()
    train.train(without, run)
    assert not (step_folder(run, "last") / AVERAGE).exists()
