"""Times one contender in a process of its own, and starts and asks such a process.

Two libraries in one process share its cores: PyTorch's threads slow JAX down. So each contender has a
process, which lives through a case and is asked, by lines of JSON, for one round after another. In between it
waits for a line, which takes no time from the others. Imports neither JAX nor PyTorch.
"""

import contextlib
import json
import os
import pathlib
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from experiments.speed.cases import Case


class Contender(NamedTuple):
    """A program that is ready to be timed.

    Attributes:
      call: starts a call and returns its result, which the device may not have finished.
      wait: until the device has finished a result.
      peak_bytes: the most memory so far.
      loss: of the result of a training step; None in inference.
      logits: float32 [H, W, classes] of the first image; None where there are none of their own.
      release: gives memory that is not in use back to the GPU, for the others; None where nothing can.
    """

    call: Callable[[], Any]
    wait: Callable[[Any], None]
    peak_bytes: Callable[[], int]
    loss: Callable[[Any], float] | None = None
    logits: Callable[[], np.ndarray] | None = None
    release: Callable[[], None] | None = None


# (case, contender's name, folder of the weights, other values of the request) -> what is timed
Prepare = Callable[[Case, str, pathlib.Path, dict[str, Any]], Contender]


# ------------------------------------------------------------------------- in the contender's process
def serve(prepare: Prepare) -> None:
    """Answer each line on standard input by a line on standard output, until the input ends."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print is no answer
    contender: Contender | None = None
    try:
        for line in sys.stdin:
            request = json.loads(line)
            try:
                if contender is None:
                    contender, answer = prepare_contender(prepare, request)
                elif "calls" in request:
                    answer = {"seconds": seconds_a_call(contender, request["calls"])}
                else:
                    answer = results(contender, request)
                if contender.release is not None:
                    contender.release()
            except Exception as error:  # every library has its own class for "out of memory"
                answer = {"failure": (str(error).strip() or type(error).__name__).splitlines()[0]}
            print(json.dumps(answer), file=answers, flush=True)
    except KeyboardInterrupt:  # the parent is interrupted, too, and says so
        sys.exit(130)


def prepare_contender(prepare: Prepare, request: dict[str, Any]) -> tuple[Contender, dict[str, Any]]:
    """The contender that the request describes; the seconds of its first call, and its loss."""
    case = Case(**request["case"])
    contender = prepare(case, request["contender"], pathlib.Path(request["folder"]), request)
    start = time.perf_counter()
    result = contender.call()
    contender.wait(result)
    answer = {"first_seconds": time.perf_counter() - start}
    if contender.loss is not None:
        answer["first_loss"] = contender.loss(result)
    return contender, answer


def seconds_a_call(contender: Contender, calls: int) -> float:
    """The mean of `calls` calls, which queue on the device, after one that is not timed.

    That one takes memory and caches back, which the others had in their turns. So what is timed is a program
    that runs on.
    """
    contender.wait(contender.call())
    start = time.perf_counter()
    result = None
    for _ in range(calls):
        result = contender.call()
    contender.wait(result)
    return (time.perf_counter() - start) / calls


def results(contender: Contender, request: dict[str, Any]) -> dict[str, Any]:
    """Peak memory; logits go to the file that the request names."""
    peak = contender.peak_bytes()  # before the logits take memory of their own
    if contender.logits is not None:
        np.save(request["logits"], contender.logits())
    return {"peak_bytes": peak}


def resident_bytes() -> int:
    """The most main memory that this process has had: on a CPU it is the device's memory."""
    kilobyte = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * kilobyte


# ---------------------------------------------------------------------------- in the parent's process
class Failed(Exception):
    """A contender cannot go on; the message says why."""


class Worker:
    """The process of one contender. A context manager that ends it.

    Args:
      module: the program, which calls `serve`.
      log: file for what it writes to standard error.
    """

    def __init__(self, module: str, log: pathlib.Path):
        self.log = log
        # Memory is taken as it is needed: contenders share the GPU.
        environment = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.92"}
        with log.open("w") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module],
                env=os.environ | environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
            )

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()  # the end of its input ends it
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def ask(self, **request: Any) -> dict[str, Any]:
        """Its answer. Raises Failed."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            words = self.log.read_text(errors="replace").strip().splitlines()
            raise Failed(f"ended with status {self.process.wait()}: {words[-1] if words else 'no message'}")
        answer = json.loads(line)
        if "failure" in answer:
            raise Failed(answer["failure"])
        return answer
