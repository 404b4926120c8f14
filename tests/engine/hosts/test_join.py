"""Two processes that are one program, until one of them is killed or frozen."""

import json
import signal
import time

import pytest

from ccnet_jax.evaluation.evaluate_instances import evaluate_instances
from tests import helpers
from tests.evaluation.test_evaluate_instances import DATA, SOURCE, imperfect

pytestmark = pytest.mark.slow


@pytest.fixture
def start(tmp_path):
    """Starts two processes of a program of this folder; none is left over."""
    processes = []

    def started(program, *further):
        coordinator = f"127.0.0.1:{helpers.free_port()}"
        for process in range(2):
            arguments = [coordinator, str(process), *further]
            processes.append(helpers.start(f"tests.engine.hosts.{program}", *arguments, cwd=tmp_path))
        return processes

    yield started
    for process in processes:
        process.kill()
        process.communicate()


def line_of(process, beginning):
    """The next line that it prints and that begins so; Gloo prints others."""
    return next(line for line in process.stdout if line.startswith(beginning))


def scores_of(process):
    return json.loads(line_of(process, "{"))


def test_two_processes_score_instances_as_one_does_and_one_misses_process_0(start, tmp_path):
    first, second = start("join_and_add", "60")
    for number, process in enumerate((first, second)):
        message = line_of(process, "error: ")
        folder = tmp_path / f"of-{number}"
        assert f"process 1 does not see the run folder of process 0 (here {folder}); choose" in message
    assert list((tmp_path / "shared").iterdir()) == []
    scores = [scores_of(process) for process in (first, second)]
    alone = evaluate_instances(imperfect, {}, SOURCE, DATA, 1)
    for values in (*scores, alone):
        values.pop("images_per_second")
    assert scores == [alone, alone]
    assert alone["images"] == 5
    assert 0 < alone["box"]["AP"] < 1

    time.sleep(0.5)  # both are adding, or about to
    first.kill()  # JAX's service is in it
    _, err = second.communicate(timeout=100)
    assert second.returncode == 75, err
    assert errors_of(err) == [err.splitlines()[-1]]
    assert err.splitlines()[-1].startswith("error: process 0 (")
    assert "it was killed or its machine stopped; start the same command again on all hosts" in err


def test_a_frozen_process_is_missed_and_ends_when_it_wakes(start):
    first, frozen = start("join_and_add", "2")
    for process in (first, frozen):
        scores_of(process)
    frozen.send_signal(signal.SIGSTOP)
    for process in (first, frozen):
        _, err = process.communicate(timeout=100)
        assert process.returncode == 75, err
        assert errors_of(err) == [err.splitlines()[-1]]
        assert err.splitlines()[-1].startswith("error: process 1 (")
        assert "nothing was heard of it for 2 s" in err
        frozen.send_signal(signal.SIGCONT)


def test_a_process_0_that_was_frozen_blames_itself(start):
    """The others are gone when it wakes, and their connections with them."""
    frozen, other = start("join_and_add", "2")
    for process in (frozen, other):
        scores_of(process)
    frozen.send_signal(signal.SIGSTOP)
    _, err = other.communicate(timeout=100)
    assert other.returncode == 75
    assert err.splitlines()[-1].startswith("error: process 0 (")
    assert "nothing was heard of it for 2 s" in err
    frozen.send_signal(signal.SIGCONT)
    _, err = frozen.communicate(timeout=100)
    assert frozen.returncode == 75
    assert err.splitlines()[-1].startswith("error: process 0, this one, stood still for "), err
    assert "process 1" not in err.splitlines()[-1]


def test_a_checkpoint_that_one_process_cannot_write_ends_both_with_its_message(start, tmp_path):
    first, second = start("save_together")
    _, own = first.communicate(timeout=100)
    _, told = second.communicate(timeout=100)
    assert (first.returncode, second.returncode) == (2, 2), own + told
    assert own.startswith("error: a checkpoint could not be written to "), own
    assert "File too large" in own
    assert told.startswith("error: process 0 has ended: "), told
    assert own.removeprefix("error: ") in told
    kept = [path.name for path in (tmp_path / "run/checkpoints/last").iterdir() if path.name.isdigit()]
    assert sorted(kept) == ["1", "2"]


def errors_of(err):
    """Lines that tell of an error, whoever wrote them."""
    return [line for line in err.splitlines() if any(word in line for word in ("rror", "Terminating", " @ "))]
