"""An exponential moving average of the weights."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PyTree

from ccnet_jax.engine.checkpoints import AVERAGE
from ccnet_jax.engine.engine import Callback, Engine


class Average(Callback):
    """After each step average <- d average + (1 - d) variables, d = min(decay, (1 + step) / (10 + step)).

    The average of all variables, running statistics included, is what is evaluated, drawn, kept as the best
    and exported. The smaller d at the start lets it forget the random weights. It takes the memory of the
    variables once more. What others do: timm's `ModelEmaV3` and TensorFlow's `ExponentialMovingAverage`.

    Args:
      engine: of the run.
      decay: below 1; 0.999 averages over about a thousand steps.
    """

    def __init__(self, engine: Engine, decay: float):
        super().__init__(engine)
        self._update = jax.jit(functools.partial(move_average, decay=decay), donate_argnums=0)

    def begin(self, state: Any) -> None:
        """Go on from the checkpoint's average; a new one begins as the state's variables."""
        average = self.engine.checkpoints.restore_item(AVERAGE, state.variables)
        self._average = jax.tree.map(jnp.copy, state.variables) if average is None else average

    def after_compute(self, state: Any) -> None:
        """Take the new variables in."""
        self._average = self._update(self._average, state.variables, state.step)

    def arrays(self) -> dict[str, Any]:
        """The average, for checkpoints."""
        return {AVERAGE: self._average}

    def variables(self) -> Any:
        """The average."""
        return self._average


def move_average(average: PyTree, variables: PyTree, step: Int[Array, ""], decay: float) -> PyTree:
    """The average after a step; `step` are those that were made, this one included."""
    d = jnp.minimum(decay, (1.0 + step) / (10.0 + step)).astype(jnp.float32)
    return jax.tree.map(lambda old, new: (d * old + (1 - d) * new).astype(old.dtype), average, variables)
