"""Runs that are disturbed end as those that are not. Signals and kills: tests/test_programs.py."""

import dataclasses
import itertools
import json
import os
import shutil
import signal
import threading

import jax
import numpy as np
import pytest

from ccnet_jax import train
from ccnet_jax.common import devices
from ccnet_jax.common.errors import UserError
from ccnet_jax.config import records
from ccnet_jax.engine import engine
from ccnet_jax.engine.checkpoints import Checkpoints, load_arrays, step_folder
from ccnet_jax.engine.folder import RunFolder
from ccnet_jax.engine.metric_log import MetricLog, points
from ccnet_jax.engine.stopping import Stopped, StopSignal
from ccnet_jax.figures import png
from ccnet_jax.tasks import TASKS, messages, preparation
from ccnet_jax.tasks.messages import explain_errors, explain_memory_errors
from tests.helpers import TINY, load_config
from tests.miniatures import write_camvid

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("shared_programs", "tiny_backbone")]
DETERMINED = ("step", "loss", "main_loss", "auxiliary_loss", "gradient_norm", "learning_rate", "val/mIoU")


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def config(tmp_path):
    return load_config(
        "demo",
        **TINY,
        data__name="camvid",
        data__dir=str(write_camvid(tmp_path / "camvid", images=3)),
        data__crop=(48, 64),
        data__flip=True,
        batch_size=2,
        steps=6,
        log_every=3,
        eval_every=4,
        checkpoint_every=3,
    )


def logged(run):
    return [json.loads(line) for line in run.metrics_file.read_text().splitlines()]


def left_in(run):
    """What an undisturbed run leaves, without times."""
    lines = [{name: line[name] for name in DETERMINED if name in line} for line in logged(run)]
    scalars = sorted(point for point in points(run) if point[1] in DETERMINED)
    images = {path.name: path.read_bytes() for path in run.images("val").iterdir()}
    best = sorted(path.name for path in (run.checkpoints / "best").iterdir())
    return lines, scalars, images, best


def assert_same(one, other):
    assert left_in(one) == left_in(other)
    for which in "last", "best":
        a, b = (load_arrays(step_folder(run, which)) for run in (one, other))
        jax.tree.map(np.testing.assert_array_equal, a, b)


def test_a_run_that_is_disturbed_everywhere_leaves_the_records_of_one_that_is_not(
    config, tmp_path, monkeypatch
):
    # so that `check` is the evaluation's
    monkeypatch.setattr(engine, "interruptible", lambda batches, _: batches)
    whole, parts = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "parts")
    train.train(config, whole)
    assert [line["step"] for line in logged(whole)] == [3, 4, 6, 6]

    def disturbed(name, replacement, code):
        with monkeypatch.context() as patch:
            patch.setattr(StopSignal, name, replacement)
            with pytest.raises(SystemExit) as stopped:
                train.train(config, parts)
            assert stopped.value.code == code

    received = iter([0, 15])
    disturbed("agreed_signal", lambda _: next(received), 143)  # between two logs
    assert logged(parts) == []
    assert Checkpoints.last_step(parts) == 2

    def stop_in_evaluation(_):
        raise Stopped(2)

    disturbed("check", stop_in_evaluation, 130)  # of step 4, which is saved before
    assert Checkpoints.last_step(parts) == 4
    assert [line["step"] for line in logged(parts)] == [3]

    def fail(_):
        raise OSError("the disk of images is gone")

    with monkeypatch.context() as patch:
        patch.setattr(StopSignal, "check", fail)  # the evaluation that is made up fails
        with pytest.raises(OSError, match="images is gone"):
            train.train(config, parts)
    disturbed("check", lambda _: stop_in_evaluation(_) if Checkpoints.last_step(parts) == 6 else None, 130)
    assert [line["step"] for line in logged(parts)] == [3, 4, 6]  # the last evaluation is missing
    train.train(config, parts)
    assert_same(whole, parts)
    before = left_in(parts)
    train.train(config, parts)  # nothing to train
    assert left_in(parts) == before


def test_a_run_killed_at_its_end_is_made_whole(config, tmp_path, monkeypatch):
    """A copy of the folder at a moment is what a kill at that moment leaves."""
    whole, copies = RunFolder(tmp_path / "whole"), []

    def copied_before(module, name):
        real = getattr(module, name)

        def call(*arguments, **named):
            if Checkpoints.last_step(whole) == config.steps:
                copies.append(RunFolder(tmp_path / f"copy-{len(copies)}"))
                shutil.copytree(whole.path, copies[-1].path)
            return real(*arguments, **named)

        return patch.setattr(module, name, call)

    with monkeypatch.context() as patch:
        copied_before(Checkpoints, "save_best")
        copied_before(MetricLog, "write")
        copied_before(MetricLog, "__exit__")
        copied_before(Checkpoints, "__exit__")
        copied_before(png, "write_whole")
        copied_before(engine, "write_json")
        train.train(config, whole)
    assert len(copies) >= 6
    for copy in copies:
        assert not copy.finished_file.exists()
    finished = copies[-1]
    assert_same(whole, finished)  # all is there before the run is said to be finished
    (next(finished.path.glob("events*"))).unlink()
    shutil.rmtree(finished.images("val"))
    shutil.rmtree(finished.checkpoints / "best")
    for copy in copies[:-1]:
        train.train(config, copy)
        assert_same(whole, copy)


def test_a_run_in_a_store_goes_on_upon_another_machine(config, tmp_path, monkeypatch):
    whole, url = RunFolder(tmp_path / "whole"), f"file://{tmp_path}/bucket/run"
    train.train(config, whole)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "first"))
    with monkeypatch.context() as patch:
        received = iter([0, 0, 0, 0, 15])
        patch.setattr(StopSignal, "agreed_signal", lambda _: next(received))
        with pytest.raises(SystemExit):
            train.train(config, RunFolder.at(url, fetch=False))
    assert (tmp_path / "runs" / "latest").resolve() == whole.path  # there is no link to what is in a store
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "second"))
    train.train(config, RunFolder.at(url, fetch=False))
    assert_same(whole, RunFolder(tmp_path / "bucket" / "run"))
    assert not (tmp_path / "bucket" / "run" / "lock").exists()


def test_a_signal_while_no_data_come_saves_and_ends(config, tmp_path, monkeypatch):
    run, released = RunFolder(tmp_path / "run"), threading.Event()

    def stuck(batches, mesh):
        yield from itertools.islice(prefetched(batches, mesh), 2)
        os.kill(os.getpid(), signal.SIGTERM)
        released.wait()

    prefetched = devices.prefetch
    monkeypatch.setattr(devices, "prefetch", stuck)
    with pytest.raises(SystemExit) as stopped:
        train.train(config, run)
    released.set()
    assert stopped.value.code == 143
    assert Checkpoints.last_step(run) == 2


def test_an_error_outside_a_step_loses_no_step(config, tmp_path, monkeypatch):
    run = RunFolder(tmp_path / "run")
    agreed = iter([0])

    def fail(_):
        if next(agreed, None) is None:
            raise OSError("a worker died")
        return 0

    with monkeypatch.context() as patch:
        patch.setattr(StopSignal, "agreed_signal", fail)
        with pytest.raises(OSError, match="a worker died"):
            train.train(config, run)
    assert Checkpoints.last_step(run) == 2
    whole = RunFolder(tmp_path / "whole")
    for each in (run, whole):
        train.train(config, each)
    assert_same(whole, run)


def test_a_checkpoint_that_cannot_be_written_is_tried_again_and_the_last_must_be(
    config, tmp_path, monkeypatch, capsys
):
    run, tries = RunFolder(tmp_path / "run"), []
    real = Checkpoints.save_last

    def save(self, step, *arguments):
        tries.append(step)
        if step in broken:
            raise UserError(f"no room at {step}")
        real(self, step, *arguments)

    monkeypatch.setattr(Checkpoints, "save_last", save)
    broken = {3, 6}
    with pytest.raises(UserError, match="no room at 6"):
        train.train(config, run)
    assert tries == [3, 4, 6, 6]  # at the end what was trained is tried once more
    assert "warning: at step 3 no room at 3; training goes on, and tries again" in capsys.readouterr().err
    broken = {3}
    with pytest.raises(UserError, match="no room at 3"):
        train.train(dataclasses.replace(config, save_errors="stop"), RunFolder(tmp_path / "other"))


def test_a_step_that_is_not_finite_names_its_images_and_is_not_made(config, tmp_path):
    run = RunFolder(tmp_path / "run")
    bad = dataclasses.replace(config, optimizer=dataclasses.replace(config.optimizer, learning_rate=1e30))
    with pytest.raises(
        UserError,
        match=r"at step 1 the new weights' norm is inf, at a learning rate of 1e\+30, with the images \d",
    ) as error:
        train.train(bad, run)
    assert str(error.value).endswith("leave out up to N such steps")  # nothing is saved yet
    assert Checkpoints.last_step(run) is None


def test_a_folder_that_was_emptied_gets_its_records_again(config, tmp_path):
    run, source = RunFolder(tmp_path / "run"), TASKS["semantic"].open(config.data, "train")
    records.write_records(run, config, source.label_classes)
    names = {path.name for path in run.path.iterdir()}
    with MetricLog(run, 0) as log:
        log.write(1, {"loss": 2.0})
        shutil.rmtree(run.path)
        preparation.keep_records(config, source, run)
        log.flush()
        assert not run.path.exists()  # a user who removes it is asked to make it again
        run.checkpoints.mkdir(parents=True)
        log.write(2, {"loss": 1.0})
        preparation.keep_records(config, source, run)
        log.flush()
        log.write(3, {"loss": 0.5})
    assert names < {path.name for path in run.path.iterdir()}
    records.check_same_run(run, records.load_config(run))
    assert logged(run) == [{"step": n, "loss": 2 ** (2.0 - n)} for n in (1, 2, 3)]
    assert [point[0] for point in sorted(points(run))] == [1, 2, 3]


@pytest.mark.parametrize(
    ("words", "kind", "told"),
    [
        (
            "RESOURCE_EXHAUSTED: Out of memory allocating 5 bytes.",
            UserError,
            r"allocating 5 bytes\.\); lower --config",
        ),
        ("INTERNAL: another", jax.errors.JaxRuntimeError, "INTERNAL: another"),
    ],
)
def test_a_step_that_finds_no_memory_gets_a_message(config, tmp_path, words, kind, told):
    task, run = TASKS["semantic"], RunFolder(tmp_path)
    messages = explain_errors(config, task, None, run, lambda step: 0.1, lambda: 1 // 0)
    with pytest.raises(kind, match=told), messages:
        raise jax.errors.JaxRuntimeError(f"{words}\nmore")


def test_memory_that_is_planned_and_there_is_told(config, tmp_path, monkeypatch):
    """A step that compiles, and finds no memory when it runs."""
    made = train.make_train_step

    def without_memory(*arguments):
        program = made(*arguments)

        def step(state, batch):
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 5 bytes.")

        step.lower, step.eval_shape = program.lower, program.eval_shape
        return step

    monkeypatch.setattr(train, "make_train_step", without_memory)
    monkeypatch.setattr(messages, "memory_limit", lambda: 5_000_000)
    told = r"allocating 5 bytes\.\): XLA plans \S+ GB, and the device has 0\.005 GB; lower --config"
    with pytest.raises(UserError, match=told) as error:
        train.train(config, RunFolder(tmp_path / "run"))
    planned = 1e9 * float(str(error.value).split("plans ")[1].split()[0])
    assert 2 * 4 * 241_935 < planned < 1e9  # weights and momentum, and more


def test_a_validation_that_finds_no_memory_has_a_remedy_of_its_own():
    with (
        pytest.raises(UserError, match=r"validation does not fit .*EXHAUSTED: 5 bytes\); lower it$"),
        explain_memory_errors("training", "no"),
        explain_memory_errors("validation", "lower it"),
    ):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 5 bytes\nmore")
