import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccnet_jax.common import devices
from ccnet_jax.common.errors import EndsElsewhere, UserError, user_error_in
from ccnet_jax.engine.meter import BATCH_MISSING, Meter
from ccnet_jax.engine.missing_batch import unless_batch_missing, with_missing_batches
from ccnet_jax.engine.stopping import Stopped
from ccnet_jax.training.means import Mean
from ccnet_jax.training.optimizers import OptimizerConfig, build_optimizer
from ccnet_jax.training.step import GUARDED, Loss, State, make_train_step

new_meter = functools.partial(Meter, guarded=GUARDED)
ROWS = 8


@pytest.fixture
def mesh():
    return devices.data_mesh(jax.devices()[:4])


def batches(mesh, count, reason):
    """So many batches; then what keeps the next one from coming."""
    for number in range(count):
        yield devices.put_batch({"x": np.full(ROWS, 1.0 + number, np.float32)}, mesh)
    raise reason


def train(step, meter, batches, mesh, alike=True):
    """`step`, a batch -> its metrics, until an error ends it."""
    with with_missing_batches(batches, ROWS, mesh, alike) as marked:
        for number, batch in enumerate(marked, 1):
            meter.wait()
            meter.add(number, step(batch))


def metrics_of(missing):
    names = ("loss", "gradient_norm", "parameter_norm", BATCH_MISSING)
    return dict.fromkeys(names, jnp.float32(missing))


def means(params, batch_stats, batch, key):
    mean = Mean((params["w"] * batch["x"]).sum(), jnp.asarray(len(batch["x"])))
    return {"x": mean}, {"mean": batch["x"].mean()}


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_step_without_a_batch_changes_nothing_and_ends_training_with_the_reason(mesh, accumulate):
    optimizer = build_optimizer(OptimizerConfig(learning_rate=0.1), 10)
    params = {"w": jnp.ones(())}
    variables = {"params": params, "batch_stats": {"mean": jnp.float32(7)}}
    state = State(jnp.int32(0), variables, optimizer.init(params))
    state = jax.device_put(state, devices.replicated_sharding(mesh))
    train_step = make_train_step(Loss(means, {"x": 1.0}), optimizer, 0, accumulate, unless_batch_missing)
    meter, after = new_meter(0, skip=5), []

    def step(batch):
        nonlocal state
        state, metrics = train_step(state, batch)
        after.append(jax.tree.map(np.array, (state.variables, state.optimizer)))
        return metrics

    reason = UserError("a.png is corrupt")
    with pytest.raises(UserError) as error:
        train(step, meter, batches(mesh, 3, reason), mesh)
    assert error.value is reason
    assert meter.step == 3
    assert BATCH_MISSING not in meter.means()
    assert len(after) == 4
    jax.tree.map(np.testing.assert_array_equal, after[3], after[2])
    assert after[2][0]["params"]["w"] < after[1][0]["params"]["w"]
    assert after[2][0]["batch_stats"]["mean"] > after[1][0]["batch_stats"]["mean"]


def test_the_other_processes_end_with_it(mesh):
    """Their batches come; the metrics of the second step say that a process has missing."""
    told, meter = iter([0, 1]), new_meter(0)

    def step(batch):
        assert not batch[BATCH_MISSING].any()
        return metrics_of(next(told))

    with pytest.raises(EndsElsewhere, match="step 2"):
        train(step, meter, batches(mesh, 5, OSError("not reached")), mesh)
    assert meter.step == 1


def test_a_signal_while_no_data_come_has_its_own_code(mesh):
    with pytest.raises(UserError, match="stopped by SIGTERM while no data came; the same command") as error:
        train(
            lambda batch: metrics_of(batch[BATCH_MISSING].any()),
            new_meter(0),
            batches(mesh, 2, Stopped(15)),
            mesh,
        )
    assert error.value.exit_code == 143


@pytest.mark.parametrize(("count", "alike"), [(0, True), (2, False)])
def test_without_a_batch_of_a_known_shape_the_error_is_raised_at_once(mesh, count, alike):
    def step(batch):
        assert not batch[BATCH_MISSING].any()
        return metrics_of(0)

    with pytest.raises(OSError, match="the drive is gone"):
        train(step, new_meter(0), batches(mesh, count, OSError("the drive is gone")), mesh, alike)
    with pytest.raises(UserError, match="stopped by SIGINT") as error:
        train(step, new_meter(0), batches(mesh, count, Stopped(2)), mesh, alike)
    assert error.value.exit_code == 130


def test_the_error_keeps_its_cause(mesh):
    reason = RuntimeError("a worker has failed")
    reason.__cause__ = UserError("a.png is corrupt")
    with pytest.raises(RuntimeError) as error:
        train(
            lambda batch: metrics_of(batch[BATCH_MISSING].any()), new_meter(0), batches(mesh, 1, reason), mesh
        )
    assert user_error_in(error.value) is reason.__cause__
