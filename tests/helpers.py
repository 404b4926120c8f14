"""What several tests share: small configs, a folder of images, running the programs as a user does."""

import contextlib
import functools
import importlib
import io
import os
import pathlib
import resource
import signal
import socket
import subprocess
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from ccnet_jax.common.errors import write_json
from ccnet_jax.config import command_line, config_files, records
from ccnet_jax.config import config as configuration
from ccnet_jax.config.config import Config
from ccnet_jax.config.config_files import ConfigName
from ccnet_jax.data.fitting import classes_of_source
from ccnet_jax.engine.checkpoints import Checkpoints
from ccnet_jax.engine.folder import RunFolder
from ccnet_jax.tasks import TASKS
from ccnet_jax.training.step import State
from tests import compiling
from tests.miniatures import write_camvid

ROOT = pathlib.Path(__file__).parents[1]
# The keys that choose the backbone of `tests/tiny_backbone.py`, and the flags with which a program does.
TINY = {"model.backbone": "tiny", "model.depth": 2}
TINY_FLAGS = [f"--parts={ROOT}/tests/tiny_backbone.py"]
TINY_FLAGS += [f"--config.{key}={value}" for key, value in TINY.items()]


def load_config(name: str, **changes) -> Config:
    """A config by name, NAME or NAME:VARIANT, with {"dotted__key": value}: double underscores are dots."""
    values = configuration.flat(config_files.load(ConfigName.of(name)))
    return configuration.parse(values | {key.replace("__", "."): value for key, value in changes.items()})


def tiny_camvid(folder: pathlib.Path, **changes) -> Config:
    """`TINY` on a miniature of CamVid, written into the folder, with crops of 48x64, two at a time."""
    data = {"data__name": "camvid", "data__dir": str(write_camvid(folder / "camvid")), "data__crop": (48, 64)}
    return load_config("demo", **TINY, **data, batch_size=2, **changes)


def random_variables(model, seed: int = 0):
    """Random parameters and batch statistics, drawn by NumPy: initializing would cost a compilation."""
    rng = np.random.default_rng(seed)

    def drawn(path, like):
        match path[-1].key:
            case "kernel":
                values = rng.normal(0, (2 / np.prod(like.shape[:-1])) ** 0.5, like.shape)
            case "scale" | "var":
                values = rng.uniform(0.5, 1.5, like.shape)
            case "gamma":
                values = rng.uniform(0.5, 1.0, like.shape)
            case _:
                values = rng.normal(0, 0.1, like.shape)
        return jnp.asarray(values, like.dtype)

    like = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 64, 64, 3), "uint8"))
    return jax.tree_util.tree_map_with_path(drawn, like)


def random_state(model, optimizer) -> State:
    """The state before the first step, with `random_variables`."""
    variables = random_variables(model)
    return State(jnp.zeros((), jnp.int32), variables, optimizer.init(variables["params"]))


def with_gamma(variables, gamma: float):
    """The variables with every attention's gamma set, so that attention takes part."""
    return jax.tree_util.tree_map_with_path(
        lambda path, x: jnp.full_like(x, gamma) if path[-1].key == "gamma" else x, variables
    )


def write_run(folder: pathlib.Path, config: Config, source) -> Any:
    """A run's folder as training leaves it, of a random network; its variables. `source` has the classes."""
    run_folder = RunFolder(folder)
    records.save_config(run_folder, config)
    records.save_classes(run_folder, classes_of_source(source))
    variables = random_variables(TASKS[config.task].network(config, len(source.classes)))
    with Checkpoints(run_folder) as checkpoints:
        checkpoints.save_last(3, variables, {"momentum": jnp.zeros(1)})
    write_json(run_folder.finished_file, {"steps": 3})
    return variables


def ran(monkeypatch, program, *arguments) -> None:
    """`program.main()` in this process, with a command line."""
    monkeypatch.setattr(sys, "argv", [program.__name__, *map(str, arguments)])
    program.main()


def start(program: str, *arguments: str, cwd: pathlib.Path, devices: int = 1) -> subprocess.Popen:
    """`python -m PROGRAM ARGUMENTS` on CPU devices."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    environment |= compiling.COMPILING | {"XLA_FLAGS": compiling.xla_flags(devices)}
    return subprocess.Popen(
        [sys.executable, "-m", program, *arguments],
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def run(program: str, *arguments: str, cwd: pathlib.Path) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of `start`, when it ends."""
    process = start(program, *arguments, cwd=cwd)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def told(program: str, *arguments: str, cwd: pathlib.Path) -> tuple[int, str, str]:
    """As `run`, in this process: for what a program says before it computes anything, such as a mistake."""
    module = importlib.import_module(program)
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.chdir(cwd):
        patch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                command_line.run(functools.partial(ran, patch, module, *arguments))
                code = 0
            except SystemExit as end:
                code = end.code or 0
    return code, out.getvalue(), err.getvalue()


def free_port() -> int:
    """A port of this machine at which nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def fresh_python(*arguments: str) -> str:
    """What a new Python prints: XLA reads its flags once, and here they are the tests' own.

    Without the garbage collector, which takes a fifth of the time of imports.
    """
    if arguments[0] == "-c":
        arguments = ("-c", f"import gc; gc.disable()\n{arguments[1]}", *arguments[2:])
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextlib.contextmanager
def small_files_only(size=4096):
    """A disk on which longer files cannot be written, though the space that it tells of would do."""
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limit[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, before)


class RunsCode:
    """What makes the folder `marker` where a pickle of it is read without care."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def wait_for(condition):
    """Wait until the condition is true, at most ten seconds."""
    for _ in range(500):
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError("it did not happen in ten seconds")
