"""The optimizers: SGD with momentum and AdamW, with the update rules of PyTorch."""

import dataclasses
from collections.abc import Callable

import jax
import optax
from jaxtyping import PyTree

from ccnet_jax.common.fields import setting
from ccnet_jax.training.schedules import ScheduleConfig, build_schedule

IsTrained = Callable[[tuple[str, ...]], bool]  # of a parameter's names from the root: whether it changes


@dataclasses.dataclass(frozen=True)
class OptimizerConfig(ScheduleConfig):
    """`config.optimizer`: how gradients become updates of the parameters."""

    name: str = setting("sgd", "the optimizer", choices=lambda: OPTIMIZERS, local=True, before="sgd")
    momentum: float = setting(0.9, "fraction of the last step in the next, of `sgd`", at_least=0, below=1)
    beta1: float = setting(
        0.9, "decay of the gradient's running mean, of `adamw`", at_least=0, below=1, before=0.9
    )
    beta2: float = setting(
        0.999, "decay of the squared gradient's running mean, of `adamw`", at_least=0, below=1, before=0.999
    )
    weight_decay: float = setting(1e-4, "weight decay; of `adamw` decoupled from the gradient", at_least=0)
    decay_norms_and_biases: bool = setting(
        True, "whether weight decay also applies to norms, biases and gamma", before=True
    )
    bias_learning_rate: float = setting(
        1.0, "learning rate of biases over that of all other parameters, of `sgd`", above=0, before=1.0
    )
    clip_norm: float | None = setting(
        None, "largest norm of the gradient of all parameters; None does not clip", above=0, before=None
    )

    def problems(self) -> list[str]:
        """Messages about settings that do not go together."""
        found = super().problems()
        if self.name == "adamw" and self.bias_learning_rate != 1:
            found.append(
                f"config.optimizer.bias_learning_rate={self.bias_learning_rate} is not for "
                "config.optimizer.name='adamw'; set it 1.0"
            )
        return found


def sgd(config: OptimizerConfig, schedule: optax.Schedule) -> optax.GradientTransformation:
    """PyTorch's SGD: buffer = momentum * buffer + gradient + weight_decay * p; p -= lr * buffer."""
    steps = [
        optax.add_decayed_weights(config.weight_decay, decay_mask(config)),
        optax.trace(config.momentum),
        optax.scale_by_learning_rate(schedule),
    ]
    if config.bias_learning_rate != 1:
        steps.append(optax.masked(optax.scale(config.bias_learning_rate), _are_biases))
    return optax.chain(*steps)


def _are_biases(parameters: PyTree) -> PyTree:
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "bias", parameters)


def adamw(config: OptimizerConfig, schedule: optax.Schedule) -> optax.GradientTransformation:
    """PyTorch's AdamW: p -= lr * (weight_decay * p + mean / (sqrt(mean of squares) + 1e-8)).

    Both means are running means with the bias of their start from 0 corrected.
    """
    return optax.adamw(
        schedule,
        b1=config.beta1,
        b2=config.beta2,
        eps=1e-8,
        weight_decay=config.weight_decay,
        mask=decay_mask(config),
    )


def decay_mask(config: OptimizerConfig) -> Callable[[PyTree], PyTree] | None:
    """parameters -> which of them weight decay applies to; None where it applies to all.

    Kernels have two axes or more; biases, the norms' scales and gamma have one or none.
    """
    if config.decay_norms_and_biases:
        return None
    return lambda parameters: jax.tree.map(lambda parameter: parameter.ndim > 1, parameters)


# Functions (config, schedule) -> what turns gradients into updates. Clipping comes before them.
OPTIMIZERS: dict[str, Callable[[OptimizerConfig, optax.Schedule], optax.GradientTransformation]] = {
    "sgd": sgd,
    "adamw": adamw,
}


def build_optimizer(
    config: OptimizerConfig, steps: int, is_trained: IsTrained | None = None
) -> optax.GradientTransformation:
    """The optimizer for a training of `steps` steps.

    Args:
      config: `config.optimizer`.
      steps: of the schedule.
      is_trained: which parameters change; the others have no buffers and no decay. None: all change.

    Raises:
      ValueError: the warm-up leaves no steps for the schedule.
    """
    optimizer = OPTIMIZERS[config.name](config, build_schedule(config, steps))
    if config.clip_norm is not None:
        optimizer = optax.chain(optax.clip_by_global_norm(config.clip_norm), optimizer)
    if is_trained is None:
        return optimizer

    def labels(parameters: PyTree) -> PyTree:
        return jax.tree_util.tree_map_with_path(
            lambda path, _: "trained" if is_trained(tuple(key.key for key in path)) else "kept", parameters
        )

    return optax.partition({"trained": optimizer, "kept": optax.set_to_zero()}, labels)
