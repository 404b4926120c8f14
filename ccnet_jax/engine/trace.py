"""A trace of some steps, by JAX's profiler, in the folder of a run."""

import jax

from ccnet_jax.common.log import say
from ccnet_jax.engine.folder import RunFolder


class Trace:
    """Writes what host and devices do in some steps. The end of `with` closes a trace that is open.

    Args:
      run: the folder of the run.
      window: (first step, number of steps) to trace, None for none.
      start: steps before this process began; those of the window are not traced.
    """

    def __init__(self, run: RunFolder, window: tuple[int, int] | None, start: int):
        self._run = run
        first, count = window or (0, 0)
        self._steps = range(first, first + count)
        self._first: int | None = None  # of the open trace
        self._last = 0
        if self._steps and start >= self._steps[-1]:
            say(f"no trace: step {start}, from which the run goes on, lies behind profile={first}:{count}")

    def step(self, step: int) -> jax.profiler.StepTraceAnnotation:
        """A context for a step; the one before has ended on the devices. Opens and closes the trace."""
        if step in self._steps:
            if self._first is None:
                jax.profiler.start_trace(self._run.path)
                self._first = step
            self._last = step
        else:
            self._close()
        return jax.profiler.StepTraceAnnotation("train", step_num=step)

    def _close(self) -> None:
        if self._first is not None:
            jax.profiler.stop_trace()
            say(
                f"trace of steps {self._first} to {self._last} in {self._run.traces}; "
                f"see it with: xprof --logdir {self._run}"
            )
            self._first = None

    def __enter__(self) -> "Trace":
        return self

    def __exit__(self, *error: object) -> None:
        self._close()
