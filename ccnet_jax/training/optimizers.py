"""The optimizers: SGD with momentum, as PyTorch's SGD computes it."""

import dataclasses
from collections.abc import Callable

import optax

from ccnet_jax.settings import setting
from ccnet_jax.training.schedules import ScheduleConfig, build_schedule


@dataclasses.dataclass(frozen=True)
class OptimizerConfig(ScheduleConfig):
    """`config.optimizer`: how gradients become updates."""

    name: str = setting("sgd", "the optimizer", choices=lambda: OPTIMIZERS, local=True, before="sgd")
    momentum: float = setting(0.9, "share of the last update in the next, of `sgd`", at_least=0, below=1)
    weight_decay: float = setting(1e-4, "weight decay; of `adamw` decoupled from the gradient", at_least=0)
    decay_norms_and_biases: bool = setting(
        True, "whether weight decay also applies to norms, biases and gamma", before=True
    )
    clip_norm: float | None = setting(
        None, "largest norm of the gradient of all parameters; None does not clip", above=0, before=None
    )


def sgd(config: OptimizerConfig, schedule: optax.Schedule) -> optax.GradientTransformation:
    """gradient + weight_decay * parameter, into the momentum buffer, times the rate; on every parameter."""
    return optax.chain(
        optax.add_decayed_weights(config.weight_decay),
        optax.trace(config.momentum),
        optax.scale_by_learning_rate(schedule),
    )


# Functions (config, schedule) -> what turns gradients into updates.
OPTIMIZERS: dict[str, Callable[[OptimizerConfig, optax.Schedule], optax.GradientTransformation]] = {
    "sgd": sgd,
}


def build_optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """The optimizer for a training of `steps` updates."""
    return OPTIMIZERS[config.name](config, build_schedule(config, steps))
