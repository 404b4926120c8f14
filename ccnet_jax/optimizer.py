"""SGD with momentum, weight decay and the poly learning rate, as PyTorch's SGD computes it."""

from typing import Any

import optax


def poly_schedule(optimizer: Any, steps: int) -> optax.Schedule:
    """step -> (learning_rate - min_learning_rate) * (1 - step / steps) ** power + min_learning_rate."""
    return optax.polynomial_schedule(
        optimizer.learning_rate, optimizer.min_learning_rate, optimizer.power, transition_steps=steps
    )


def sgd(optimizer: Any, steps: int) -> optax.GradientTransformation:
    """gradient + weight_decay * parameter, into the momentum buffer, times the poly rate; on every parameter.

    Args:
      optimizer: the config's `optimizer`.
      steps: length of training, in updates.
    """
    return optax.chain(
        optax.add_decayed_weights(optimizer.weight_decay),
        optax.trace(optimizer.momentum),
        optax.scale_by_learning_rate(poly_schedule(optimizer, steps)),
    )
