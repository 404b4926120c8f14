"""What benchmarks and experiments share: fair timing of several programs, and the head of a result file."""

import contextlib
import datetime
import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple, TypeVar

import jax

from ..whole_file import write_whole

ROOT = pathlib.Path(__file__).parents[2]

_NO_RESULTS = ":(exclude)experiments/results"  # in git's words

# A measurement may depend on these.
PACKAGES = (
    *("jax", "jaxlib", "jax-cuda12-plugin", "jax-cuda13-plugin", "nvidia-cudnn-cu12", "nvidia-cudnn-cu13"),
    *("flax", "optax", "orbax-checkpoint", "numpy"),
    *("grain", "imagecodecs", "opencv-python-headless", "opencv-python", "pillow"),
    *("onnx", "onnxruntime", "torch", "torchvision"),
)

Name = TypeVar("Name", bound=Hashable)


# --- Time ---


class Program(NamedTuple):
    """Something to time.

    Attributes:
      call: of one set of inputs; returns before the device is done.
      sets: of inputs; each call takes the next one.
      clock: seconds from the start of a batch of calls until the device is done with it.
    """

    call: Callable[..., Any]
    sets: Sequence[tuple[Any, ...]]
    clock: Callable[[Callable[[], Any]], float]


def jax_clock(batch: Callable[[], Any]) -> float:
    """Seconds on the host's clock: JAX has no events on the device. The last call ends last."""
    start = time.perf_counter()
    jax.block_until_ready(batch())
    return time.perf_counter() - start


def seconds_a_call(program: Program, calls: int) -> float:
    """The mean of `calls` calls. They queue on the device, which hides the host's time to start one."""

    def batch() -> Any:
        result = None
        for n in range(calls):
            result = program.call(*program.sets[n % len(program.sets)])
        return result

    return program.clock(batch) / calls


def calls_a_round(program: Program, seconds: float) -> int:
    """The number of calls that take about `seconds`, in whole rotations through the sets. Warms up, too."""
    rotation = len(program.sets)
    seconds_a_call(program, rotation)
    return rotation * min(1000, max(1, round(seconds / (rotation * seconds_a_call(program, rotation)))))


def interleaved_seconds(
    programs: dict[Name, Program], rounds: int, round_seconds: float
) -> tuple[dict[Name, list[float]], dict[Name, str]]:
    """Seconds a call of every program in every round, and the reason for each program that failed.

    Every round times each program once: what slows the device for a while slows them all.
    """
    calls: dict[Name, int] = {}
    seconds: dict[Name, list[float]] = {name: [] for name in programs}
    failures: dict[Name, str] = {}
    for n in range(-1, rounds):
        for name in [x for x in programs if x not in failures]:
            try:
                if n < 0:
                    calls[name] = calls_a_round(programs[name], round_seconds)
                else:
                    seconds[name].append(seconds_a_call(programs[name], calls[name]))
            except Exception as error:  # every library has its own class for "out of memory"
                failures[name] = first_line(error)
    return {name: x for name, x in seconds.items() if name not in failures}, failures


def first_line(error: Exception) -> str:
    """The first line of the error's message; the name of its class where the message is empty."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


# --- Result files ---


def result_head(device: str | None = None) -> dict[str, Any]:
    """What every result file begins with: where, when and by which code it was measured.

    Args:
      device: the name to write, for a measurement that is not of JAX's default device.

    Returns:
      device: the name of the device;
      driver: the version of NVIDIA's driver, None where there is none;
      versions: {"python" or a package of `PACKAGES`: its version}, of those that are installed;
      commit: see `commit`;
      command: the command line as it was typed;
      date: ISO 8601, with the time zone.
    """
    return {
        "device": device or device_name(),
        "driver": driver(),
        "versions": versions(),
        "commit": commit(),
        "command": shlex.join(["python", *sys.orig_argv[1:]]),
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
    }


def device_name() -> str:
    """JAX's name for its default device."""
    default = jax.devices()[0]
    return cpu_name() if default.platform == "cpu" else default.device_kind


def cpu_name() -> str:
    """ "cpu", and the number of cores that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"cpu, {cores} cores"


def driver() -> str | None:
    """The version of NVIDIA's driver, None where there is none."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    return (_printed_by(command) or "").partition("\n")[0] or None


def versions() -> dict[str, str]:
    """The versions of Python and of those packages in `PACKAGES` that are installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def commit() -> str | None:
    """HEAD, with "-dirty" where files differ from it.

    Results may differ: one that was measured before has no part in the next. Where the environment variable
    SOURCE_COMMIT is set, as for a copy of the files whose history is missing or older, it is what that says;
    None where nothing says it.
    """
    if given := os.environ.get("SOURCE_COMMIT"):
        return given
    if not (ROOT / ".git").exists():  # an installed package may lie inside another project's repository
        return None
    head = _printed_by(["git", "rev-parse", "HEAD"])
    if head is None:
        return None
    changed = _printed_by(["git", "status", "--porcelain", "--untracked-files=no", "--", ".", _NO_RESULTS])
    return f"{head}-dirty" if changed else head


def sources(*paths: str) -> str:
    """16 hexadecimal digits that tell one state of Python files, or of all in a folder, from another.

    A commit does not: it changes when results are committed, and files that differ from it have many states.
    """
    digest = hashlib.sha256()
    for given in paths:
        root = ROOT / given
        for path in [root] if root.is_file() else sorted(root.rglob("*.py")):
            digest.update(f"{path.relative_to(ROOT)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def resume_report(path: pathlib.Path, report: dict[str, Any], measured: tuple[str, ...]) -> dict[str, Any]:
    """`report`, with what an interrupted program has measured already and written to `path`.

    Args:
      path: of the result file; it need not exist.
      report: as it is at the start. Measurements of other values (of another device, other versions, other
        sources) are not taken; the commit, the command and the date may be others.
      measured: the keys of the measurements.
    """
    try:
        before = json.loads(path.read_text())
    except (OSError, ValueError):
        return report
    free = {"commit", "command", "date", *measured}
    same = all(before.get(key) == value for key, value in report.items() if key not in free)
    return report | {key: before[key] for key in measured if key in before} if same else report


def write_result(path: pathlib.Path, report: dict[str, Any]) -> None:
    """Write `report`, which begins with `result_head()`, as JSON; make its folder where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(report, indent=2) + "\n")


def _printed_by(command: list[str]) -> str | None:
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
