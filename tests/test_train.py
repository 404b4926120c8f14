import dataclasses
import json
import types

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ccnet_jax import train
from ccnet_jax.common import devices
from ccnet_jax.common.errors import UserError
from ccnet_jax.data.datasets.streets import Streets
from ccnet_jax.engine.checkpoints import Checkpoints, load_variables, variables_like
from ccnet_jax.engine.folder import RunFolder
from ccnet_jax.engine.stopping import StopSignal
from ccnet_jax.models.config import build_network
from ccnet_jax.training import step as training_step
from ccnet_jax.training.optimizers import build_optimizer
from ccnet_jax.training.semantic_loss import make_loss
from tests import shared_programs
from tests.helpers import TINY, load_config, random_state, random_variables, with_gamma
from tests.miniatures import write_camvid

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("shared_programs", "tiny_backbone")]
LOGGED = ("loss", "main_loss", "auxiliary_loss", "learning_rate")


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def small_config(folder, **changes):
    values = {
        "data__name": "camvid",
        "data__dir": str(folder),
        "data__crop": (48, 64),
        "batch_size": 2,
        "log_every": 1,
        "eval_every": 0,
        "checkpoint_every": 100,
        "optimizer__schedule": "multi_step",  # which knows no number of steps: one program for all runs
        "optimizer__milestones": (1,),
    }
    return load_config("demo", **(TINY | values | changes))


def logged(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def batch_of(count, size=(48, 64)):
    samples = [Streets("train")[i] for i in range(count)]
    window = np.s_[24 : 24 + size[0], 64 : 64 + size[1]]
    return {key: np.stack([s[key][window] for s in samples]) for key in ("image", "label")}


@pytest.mark.parametrize(
    ("ohem", "implementation", "backbone"),
    [(False, None, TINY), (True, None, TINY), (False, "triton_interpret", TINY)],
)
def test_eight_devices_with_one_image_equal_one_device_with_eight(ohem, implementation, backbone):
    config = load_config(
        "demo",
        **backbone,
        loss__name="ohem" if ohem else "cross_entropy",
        loss__ohem_min_kept=500,
        model__implementation=implementation,
        optimizer__weight_decay=0.0,  # then the momentum after one step is the gradient
    )
    model = build_network(config.model, 13, config.dtype)
    optimizer = build_optimizer(config.optimizer, 10)
    step = training_step.make_train_step(make_loss(model, config.loss), optimizer, seed=0)
    results = []
    for count in (1, 8):
        mesh = devices.data_mesh(jax.devices()[:count])
        state = random_state(model, optimizer)
        state = state.replace(variables=with_gamma(state.variables, 0.5))
        state = jax.device_put(state, devices.replicated_sharding(mesh))
        batch = devices.put_batch(batch_of(8), mesh)
        assert len(batch["image"].addressable_shards) == count
        assert batch["image"].addressable_shards[0].data.shape[0] == 8 // count
        compiled = step.lower(state, batch).compile()
        if not ohem:  # which ranks the whole batch's pixels; nothing else may leave its device
            assert "all-gather" not in compiled.as_text()
        after, metrics = compiled(state, batch)
        assert all(x.is_fully_replicated for x in jax.tree.leaves(after))
        gradients = optax.tree_utils.tree_get(after.optimizer, "trace")
        results.append((metrics, after.variables, gradients))
    one, eight = (jax.tree.map(np.asarray, result) for result in results)
    scale = max(np.abs(x).max() for x in jax.tree.leaves(one[2]))

    def close(a, b):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * max(scale, 1))

    np.testing.assert_allclose(one[0]["loss"], eight[0]["loss"], rtol=1e-5)
    jax.tree.map(close, one, eight)
    assert all(x.any() for x in jax.tree.leaves(one[2]["head"]["context"]["rcca"]["attention"]["value"]))
    assert one[2]["head"]["context"]["rcca"]["attention"]["query"]["kernel"].any()


def test_the_loss_is_main_plus_weighted_auxiliary():
    config = load_config("demo", loss__auxiliary_weight=0.25)
    model = build_network(config.model, 13, config.dtype)
    variables = random_variables(model)
    loss, (metrics, _) = jax.jit(make_loss(model, config.loss))(
        variables["params"],
        variables["batch_stats"],
        jax.tree.map(jnp.asarray, batch_of(2)),
        jax.random.key(0),
    )
    np.testing.assert_allclose(loss, metrics["main_loss"] + 0.25 * metrics["auxiliary_loss"], rtol=1e-6)
    assert metrics["auxiliary_loss"] > 0


def test_a_run_overfits_four_images(tmp_path, monkeypatch):
    one = devices.data_mesh(jax.devices()[:1])
    monkeypatch.setattr(devices, "data_mesh", lambda _: one)
    config = small_config(
        write_camvid(tmp_path / "camvid"),
        optimizer__schedule="poly",
        optimizer__learning_rate=0.5,
        data__crop=None,
        steps=80,
        batch_size=4,
        eval_every=80,
        log_every=10,
        data__eval_split="train",
    )
    train.train(config, RunFolder(tmp_path / "run"))
    lines = logged(tmp_path / "run")
    assert lines[-1]["train/mIoU"] > 0.75
    assert lines[-1]["train/pixel_accuracy"] > 0.93
    assert lines[-2]["loss"] < 0.35
    names = sorted(p.name for p in (tmp_path / "run/images/train").iterdir())
    assert names == ["0.png", "1.png", "2.png", "3.png"]
    assert (tmp_path / "runs/latest").resolve() == (tmp_path / "run").resolve()
    assert list((tmp_path / "run").glob("events.out.tfevents*"))


def test_bfloat16_learns_too(tmp_path):
    folder = write_camvid(tmp_path / "camvid")
    changes = {"optimizer__schedule": "poly", "dtype": "bfloat16", "steps": 20}
    train.train(small_config(folder, **changes), RunFolder(tmp_path / "run"))
    lines = logged(tmp_path / "run")
    assert lines[-1]["loss"] < 0.4 * lines[0]["loss"]


def test_a_stopped_run_goes_on_where_it_was(tmp_path, monkeypatch):
    folder = write_camvid(tmp_path / "camvid")
    config = small_config(folder, steps=6, data__flip=True)
    train.train(config, RunFolder(tmp_path / "whole"))

    with monkeypatch.context() as patch:
        received = iter([0, 0, 2])
        patch.setattr(StopSignal, "agreed_signal", lambda _: next(received))
        with pytest.raises(SystemExit) as stopped:
            train.train(dataclasses.replace(config, profile=(2, 50)), RunFolder(tmp_path / "parts"))
        assert stopped.value.code == 130
    (trace,) = (tmp_path / "parts").glob("plugins/profile/*/*.xplane.pb")
    jax.profiler.ProfileData.from_file(str(trace))  # which raises where it was cut off
    assert [line["step"] for line in logged(tmp_path / "parts")] == [1, 2, 3]
    train.train(config, RunFolder(tmp_path / "parts"))

    whole, parts = logged(tmp_path / "whole"), logged(tmp_path / "parts")
    assert [line["step"] for line in parts] == [1, 2, 3, 4, 5, 6]
    for a, b in zip(whole, parts, strict=True):
        np.testing.assert_allclose([a[k] for k in LOGGED], [b[k] for k in LOGGED], rtol=1e-5)
    like = variables_like(build_network(config.model, 11, config.dtype), devices.data_mesh())
    (a, step_a), (b, step_b) = (
        load_variables(RunFolder(tmp_path / name), "last", like) for name in ("whole", "parts")
    )
    assert step_a == step_b == 6
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), a, b)


def test_the_metrics_say_where_the_time_goes_and_a_trace_is_written(tmp_path, capsys):
    shared_programs.forget()
    folder = write_camvid(tmp_path / "camvid")
    config = small_config(folder, steps=4, log_every=2, profile=(2, 2))
    train.train(config, RunFolder(tmp_path / "run"))
    first, last = logged(tmp_path / "run")
    assert first["compile_seconds"] > 0 == last["compile_seconds"]
    assert first["seconds_to_first_step"] > first["compile_seconds"]
    assert "seconds_to_first_step" not in last
    for line in first, last:
        assert line["images_per_second"] > 0
        assert 0 <= line["data_wait_fraction"] <= 1
        assert "peak_memory_bytes" not in line  # CPUs do not tell
    assert first["seconds_left"] > 0 == last["seconds_left"]
    assert "trace of steps 2 to 3" in capsys.readouterr().out
    assert len(list((tmp_path / "run").glob("plugins/profile/*/*.xplane.pb"))) == 1


def test_peak_memory_is_that_of_the_fullest_device_that_tells(without_shape_checks):
    def device(stats):
        return types.SimpleNamespace(memory_stats=lambda: stats)

    told = [device({"peak_bytes_in_use": 5}), device({"peak_bytes_in_use": 7}), device({"bytes_in_use": 9})]
    assert devices.peak_memory(types.SimpleNamespace(local_devices=[*told, device(None)])) == 7
    assert devices.peak_memory(types.SimpleNamespace(local_devices=[device(None)])) is None


def test_images_of_several_sizes_are_warned_of(tmp_path, capsys):
    folder = write_camvid(tmp_path / "camvid", images=2)
    for kind in ("images", "labels"):
        for i, (height, width) in enumerate([(48, 64), (32, 64)]):
            path = str(folder / kind / "train" / f"{i}.png")
            cv2.imwrite(path, cv2.imread(path, cv2.IMREAD_UNCHANGED)[:height, :width])
    train.train(small_config(folder, steps=4, batch_size=1, data__crop=None), RunFolder(tmp_path / "run"))
    compiled = [line["compile_seconds"] > 0 for line in logged(tmp_path / "run")]
    assert compiled[0]
    assert sum(compiled) == 2  # once for each size
    assert capsys.readouterr().err.count("made JAX compile the step again") == 1


def test_a_finished_run_costs_nothing_and_a_longer_one_goes_on(tmp_path, capsys):
    folder = write_camvid(tmp_path / "camvid")
    config = small_config(folder, steps=2)
    train.train(config, RunFolder(tmp_path / "run"))
    train.train(config, RunFolder(tmp_path / "run"))
    assert "nothing to train" in capsys.readouterr().out
    train.train(dataclasses.replace(config, steps=3), RunFolder(tmp_path / "run"))
    assert [line["step"] for line in logged(tmp_path / "run")] == [1, 2, 3]


def test_another_config_in_the_same_folder_is_refused_and_loses_nothing(tmp_path):
    folder = write_camvid(tmp_path / "camvid")
    train.train(small_config(folder, steps=2), RunFolder(tmp_path / "run"))
    before = (tmp_path / "run/config.json").read_text()
    with pytest.raises(UserError, match=r"model.context='rcca', not 'psp'.*another --workdir"):
        train.train(
            small_config(folder, steps=2, model__context="psp"),
            RunFolder(tmp_path / "run"),
        )
    assert (tmp_path / "run/config.json").read_text() == before


def test_ruined_weights_stop_the_run_and_are_not_saved(tmp_path):
    folder = write_camvid(tmp_path / "camvid")
    settings = {"steps": 30, "checkpoint_every": 1}
    with pytest.raises(UserError, match="lower --config.optimizer.learning_rate"):
        train.train(
            small_config(folder, optimizer__learning_rate=1e30, **settings), RunFolder(tmp_path / "run")
        )
    assert not list((tmp_path / "run/checkpoints/last").iterdir())
    # nothing worth keeping is there, so the folder may be used again
    train.train(small_config(folder, **(settings | {"steps": 2})), RunFolder(tmp_path / "run"))
    assert [line["step"] for line in logged(tmp_path / "run")] == [1, 2]


def test_steps_that_are_all_skipped_are_logged_with_the_rate_of_the_optimizer(tmp_path):
    folder = write_camvid(tmp_path / "camvid", images=2)
    rate = {"optimizer__learning_rate": 1e30, "skip_nonfinite": 3}
    settings = {"steps": 3}
    train.train(small_config(folder, **rate, **settings), RunFolder(tmp_path / "run"))
    lines = logged(tmp_path / "run")
    assert [line["skipped_steps"] for line in lines] == [1, 2, 3]
    assert "loss" not in lines[0]
    np.testing.assert_allclose([line["learning_rate"] for line in lines], 1e30)  # none was made: no fall


def test_a_run_without_validation_leaves_images_too_and_obeys_a_signal_then(tmp_path, monkeypatch):
    folder = write_camvid(tmp_path / "camvid", images=2)
    received = iter([0, 0, 15])
    monkeypatch.setattr(StopSignal, "agreed_signal", lambda _: next(received))
    with pytest.raises(SystemExit) as stopped:
        train.train(small_config(folder, steps=2), RunFolder(tmp_path / "run"))
    assert stopped.value.code == 143
    assert sorted(p.name for p in (tmp_path / "run/images/train").iterdir()) == ["0.png", "1.png"]


def test_best_is_kept_apart_and_forgotten_when_its_steps_are_made_again(tmp_path):
    variables, optimizer = {"params": {"w": jnp.arange(3.0)}}, {"momentum": jnp.zeros(3)}
    with Checkpoints(RunFolder(tmp_path)) as checkpoints:
        checkpoints.save_last(4, variables, optimizer)
        checkpoints.save_best(4, variables, 0.5)
        checkpoints.save_best(8, jax.tree.map(lambda x: x + 1, variables), 0.7)
        checkpoints.save_best(9, jax.tree.map(lambda x: x + 2, variables), 0.6)
    assert Checkpoints.exists(RunFolder(tmp_path))
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), variables)
    best, step = load_variables(RunFolder(tmp_path), "best", like)
    assert step == 8
    np.testing.assert_array_equal(best["params"]["w"], [1, 2, 3])
    with Checkpoints(RunFolder(tmp_path)) as checkpoints:
        assert checkpoints.latest_step() == 4
        checkpoints.drop_best_after(4)
        checkpoints.save_best(6, variables, 0.55)
    assert load_variables(RunFolder(tmp_path), "best", like)[1] == 6
    other = jax.tree.map(lambda x: jax.ShapeDtypeStruct((5,), x.dtype, sharding=x.sharding), like)
    with pytest.raises(UserError, match="another network") as error:
        load_variables(RunFolder(tmp_path), "last", other)
    assert "\n" not in str(error.value)


def test_dropout_differs_from_step_to_step():
    config = load_config("demo")
    model = build_network(config.model, 13, config.dtype)
    variables = random_variables(model)
    loss = jax.jit(make_loss(model, config.loss))
    values = {
        float(loss(variables["params"], variables["batch_stats"], batch_of(2), jax.random.key(i))[0])
        for i in (0, 1)
    }
    assert len(values) == 2
    assert all(jnp.isfinite(v) for v in values)
