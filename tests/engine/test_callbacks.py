"""The moments of a callback, in their order: of a run that is stopped, goes on, and ends."""

import pytest

from ccnet_jax import train
from ccnet_jax.engine.engine import Callback
from ccnet_jax.engine.folder import RunFolder
from ccnet_jax.engine.stopping import StopSignal
from ccnet_jax.tasks.callbacks import CALLBACKS
from tests.helpers import tiny_camvid

pytestmark = pytest.mark.usefixtures("shared_programs", "tiny_backbone")


def test_moments_come_in_their_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    moments = []

    class Noting(Callback):
        def begin(self, state):
            moments.append(("begin", int(state.step)))

        def after_compute(self, state):
            moments.append(("computed", int(state.step)))

        def is_due(self, step):
            return step == 1  # which asks for a checkpoint

        def after_step(self, step, state):
            moments.append(("after_step", step))

        def after_log(self, step, values):
            moments.append(("val" if "val/mIoU" in values else "logged", step))

        def after_stop(self, step):
            moments.append(("stopped", step))

        def end(self, state):
            moments.append(("end", int(state.step)))

    every = {"steps": 4, "log_every": 2, "eval_every": 4, "checkpoint_every": 100}
    config, run = tiny_camvid(tmp_path, **every), RunFolder(tmp_path / "run")
    monkeypatch.setitem(CALLBACKS, "noting", lambda training: Noting(training.engine))
    saved = []
    monkeypatch.setattr(
        train.Engine,
        "save",
        lambda self, step, needed, real=train.Engine.save: (
            saved.append((step, needed)),
            real(self, step, needed),
        ),
    )
    with monkeypatch.context() as patch:
        received = iter([0, 0, 15])
        patch.setattr(StopSignal, "agreed_signal", lambda _: next(received))
        with pytest.raises(SystemExit):
            train.train(config, run)
    assert moments == [
        *[("begin", 0), ("computed", 1), ("after_step", 1)],
        *[("computed", 2), ("logged", 2), ("after_step", 2)],
        *[("computed", 3), ("stopped", 3)],  # `stop` stands before it in the list
    ]
    assert saved == [(1, False), (3, True), (3, True)]  # the second time there is nothing more to write
    moments.clear()
    train.train(config, run)
    assert moments == [
        ("begin", 3),
        ("computed", 4),
        ("logged", 4),
        ("val", 4),
        ("after_step", 4),
        ("end", 4),
    ]
