import jax
import jax.numpy as jnp
import pytest

from ccnet_jax.engine.folder import RunFolder
from ccnet_jax.engine.trace import Trace


def traced_steps(run):
    """The steps in the only trace of a run, as xprof reads them."""
    (path,) = run.traces.glob("*/*.xplane.pb")
    data = jax.profiler.ProfileData.from_file(str(path))
    events = [event for plane in data.planes for line in plane.lines for event in line.events]
    return [dict(event.stats)["step_num"] for event in events if event.name == "train"]


def make_step(trace, step):
    with trace.step(step):
        jax.block_until_ready(jnp.ones(3) + step)


def test_a_trace_holds_the_steps_that_were_asked_for_and_says_where_it_is(tmp_path, said):
    run = RunFolder(tmp_path / "run")
    with Trace(run, (2, 2), 0) as trace:
        for step in range(1, 6):
            make_step(trace, step)
    assert traced_steps(run) == [2, 3]
    assert said() == [f"trace of steps 2 to 3 in {run.traces}; see it with: xprof --logdir {run}"]


@pytest.mark.parametrize("error", [SystemExit, RuntimeError])
def test_a_trace_is_whole_when_training_ends_within_it(tmp_path, error):
    run = RunFolder(tmp_path / "run")

    def stopped():
        with Trace(run, (2, 100), 0) as trace:
            for step in range(1, 4):
                make_step(trace, step)
            raise error

    with pytest.raises(error):
        stopped()
    assert traced_steps(run) == [2, 3]


def test_without_a_window_nothing_is_written(tmp_path, said):
    run = RunFolder(tmp_path / "run")
    with Trace(run, None, 0) as trace:
        make_step(trace, 1)
    assert not run.path.exists()
    assert said() == []


def test_a_run_goes_on_within_the_window_or_after_it(tmp_path, said):
    run = RunFolder(tmp_path / "run")
    with Trace(run, (2, 3), 3) as trace:
        make_step(trace, 4)
        make_step(trace, 5)
    assert traced_steps(run) == [4]
    with Trace(run, (2, 3), 4) as trace:
        make_step(trace, 5)
    assert said()[1:] == ["no trace: step 4, from which the run goes on, lies behind profile=2:3"]
