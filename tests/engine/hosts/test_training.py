"""Training with real processes on one machine: the same as with one, whatever happens to one of them."""

import json
import signal
import time

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from ccnet_jax import train
from ccnet_jax.common import devices
from ccnet_jax.config import config_files, records
from ccnet_jax.config.config import parse
from ccnet_jax.config.config_files import ConfigName
from ccnet_jax.data.datasets import camvid
from ccnet_jax.engine.checkpoints import Checkpoints, load_variables, variables_like
from ccnet_jax.engine.folder import RunFolder
from ccnet_jax.engine.hosts.config import HostsConfig
from ccnet_jax.models.config import build_network
from tests import helpers
from tests.miniatures import write_camvid

pytestmark = pytest.mark.slow

SETTINGS = {
    "data.name": "camvid",
    "data.dir": "camvid",
    "data.crop": "(48, 64)",
    "batch_size": "8",
    "log_every": "1",
    "eval_every": "2",  # which is saved before
    "checkpoint_every": "100",
    "model.loops": "1",
    "optimizer.learning_rate": "0.02",
    "optimizer.schedule": "multi_step",  # the rate does not depend on the number of steps
    "optimizer.milestones": "(1,)",
}


@pytest.fixture
def start(tmp_path):
    """Starts the program in so many processes, which have eight devices together; none is left over."""
    running = []

    def started(processes, changes, last=None):
        running.extend(found := start_program(tmp_path, processes, changes, last or {}))
        return found

    yield started
    for process in running:
        process.kill()
        process.communicate()


def start_program(folder, processes, changes, last):
    """`changes` are settings of all processes, `last` those of the last one alone."""
    coordinator = f"127.0.0.1:{helpers.free_port()}"
    of_all = SETTINGS | changes | {"distributed": True, "hosts.processes": processes}
    of_all["hosts.coordinator"] = coordinator
    started = []
    for process in range(processes):
        values = of_all | {"hosts.process": process} | (last if process == processes - 1 else {})
        arguments = [f"--config.{key}={value}" for key, value in values.items()]
        arguments += [f"--config={helpers.ROOT}/configs/demo.py", "--workdir=many", *helpers.TINY_FLAGS]
        started.append(helpers.start("ccnet_jax.train", *arguments, cwd=folder, devices=8 // processes))
    return started


def logged(workdir, what):
    """{step: value} of a metric; of a step that is logged twice, an error."""
    found = {}
    file = workdir / "metrics.jsonl"
    for line in file.read_text().splitlines(keepends=True) if file.exists() else []:
        values = json.loads(line) if line.endswith("\n") else {}
        if what in values:
            assert values["step"] not in found
            found[values["step"]] = values[what]
    return found


def wait_for_step(workdir, step, processes):
    deadline = time.monotonic() + 200
    while max(logged(workdir, "loss"), default=0) < step:
        assert [process.poll() for process in processes] == [None] * len(processes), [
            process.communicate() for process in processes
        ]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def outcomes(processes):
    """(exit code, standard output, standard error) of each process, when it ends."""
    outputs = [process.communicate(timeout=100) for process in processes]
    return [(process.returncode, *output) for process, output in zip(processes, outputs, strict=True)]


def on_one_device(monkeypatch):
    monkeypatch.setattr(devices, "data_mesh", lambda _=None: Mesh(np.array(jax.devices()[:1]), ("data",)))


def test_a_run_goes_through_two_processes_twice_to_one_and_is_the_same(
    start, tmp_path, monkeypatch, shared_programs, tiny_backbone
):
    """2 x 4 devices until a signal, again until one is killed, then 1 x 8, as against 1 x 1."""
    write_camvid(tmp_path / "camvid", images=3)
    monkeypatch.chdir(tmp_path)
    many, one = tmp_path / "many", tmp_path / "one"

    two = start(2, {"steps": 400})
    wait_for_step(many, 1, two)
    two[1].send_signal(signal.SIGTERM)
    (first, out, err), (second, silent, _) = outcomes(two)
    assert (first, second) == (143, 143), err
    assert "8 of 8 devices" in out
    assert "goes on from there" in out
    assert "mIoU" not in silent  # one process speaks for all
    stopped = max(logged(many, "loss"))

    again = start(2, {"steps": 400})
    wait_for_step(many, stopped + 2, again)
    again[1].kill()
    *alive, killed = outcomes(again)
    assert killed[0] == -signal.SIGKILL
    for code, _, err in alive:
        assert code == 75, err
        assert [line for line in err.splitlines() if line.startswith("error: process 1 (")], err
        assert "Traceback" not in err
        assert "stack trace" not in err
    assert f"going on from step {stopped} of" in alive[0][1]

    kept = records.load_config(RunFolder(many))
    assert kept.distributed
    assert kept.hosts == HostsConfig()  # where the processes met is not the run's

    steps = max(logged(many, "loss")) + 1
    settings = helpers.TINY | SETTINGS | {"steps": str(steps)}
    config = parse(config_files.load(ConfigName.of("demo")), settings)
    train.train(config, RunFolder(many))
    on_one_device(monkeypatch)
    train.train(config, RunFolder(one))

    for metric, tolerance in (
        ("loss", 1e-4),
        ("auxiliary_loss", 1e-4),
        ("gradient_norm", 1e-2),
        ("val/mIoU", 2e-2),
    ):
        a, b = logged(many, metric), logged(one, metric)
        assert metric == "val/mIoU" or sorted(b) == list(range(1, steps + 1))
        if metric == "val/mIoU" and stopped not in a:
            b.pop(stopped, None)  # the signal came before it
        assert sorted(a) == sorted(b)
        np.testing.assert_allclose(
            [a[step] for step in sorted(a)], [b[step] for step in sorted(b)], rtol=tolerance
        )
    like = variables_like(build_network(config.model, len(camvid.CLASSES), config.dtype), devices.data_mesh())
    (a, step_a), (b, step_b) = (load_variables(RunFolder(run), "last", like) for run in (many, one))
    assert step_a == step_b == steps
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-4), a, b)


def test_a_corrupt_image_of_one_process_ends_all_with_its_message_and_all_is_saved(start, tmp_path):
    write_camvid(tmp_path / "camvid", images=2)
    images = write_camvid(tmp_path / "other", images=2) / "images" / "train"
    many = tmp_path / "many"
    for begun in (True, False):  # after a step; then before the first, where there is nothing to save
        two = start(2, {"steps": 400, "eval_every": 0}, last={"data.dir": "other"})
        if begun:
            wait_for_step(many, 1, two)
        for path in images.iterdir():
            path.write_bytes(b"no image")
        (first, _, told), (second, _, own) = outcomes(two)
        assert (first, second) == (2, 2), told + own
        assert [line for line in own.splitlines() if "is corrupt or not an image" in line]
        assert [line for line in told.splitlines() if line.startswith("error: process 1 (")], told
        assert "Traceback" not in told + own
        assert 1 <= Checkpoints.last_step(RunFolder(many)) == max(logged(many, "loss")) < 400
