"""How the learning rate changes during training."""

import dataclasses
from collections.abc import Callable

import optax

from ccnet_jax.settings import setting


@dataclasses.dataclass(frozen=True)
class ScheduleConfig:
    """The part of `config.optimizer` that says how the learning rate changes."""

    schedule: str = setting(
        "poly", "how the rate falls", choices=lambda: SCHEDULES, local=True, before="poly"
    )
    learning_rate: float = setting(1e-2, "highest rate: of the first update, or after the warm-up", above=0)
    min_learning_rate: float = setting(0.0, "rate that the schedule ends at", at_least=0)
    power: float = setting(0.9, "power of the poly schedule", at_least=0)
    warmup_steps: int = setting(
        0,
        "updates in which the rate rises linearly from 0 before the schedule begins",
        at_least=0,
        before=0,
    )

    def complaints(self) -> list[str]:
        """Sentences about settings that do not go together."""
        if self.min_learning_rate <= self.learning_rate:
            return []
        return [
            f"config.optimizer.min_learning_rate={self.min_learning_rate} must be at most "
            f"config.optimizer.learning_rate={self.learning_rate}"
        ]

    def complaints_for(self, steps: int) -> list[str]:
        """Sentences about settings that do not fit a training of `steps` updates."""
        if self.warmup_steps < steps:
            return []
        return [
            f"config.optimizer.warmup_steps={self.warmup_steps} must be less than config.steps={steps}; make "
            "it smaller, or train longer"
        ]


def poly(config: ScheduleConfig, steps: int) -> optax.Schedule:
    """step -> (learning_rate - min_learning_rate) * (1 - step / steps) ** power + min_learning_rate."""
    return optax.polynomial_schedule(
        config.learning_rate, config.min_learning_rate, config.power, transition_steps=steps
    )


def cosine(config: ScheduleConfig, steps: int) -> optax.Schedule:
    """step -> (learning_rate - min_learning_rate) * (1 + cos(pi * step / steps)) / 2 + min_learning_rate."""
    return optax.cosine_decay_schedule(
        config.learning_rate, steps, alpha=config.min_learning_rate / config.learning_rate
    )


# Functions (config, steps) -> (step -> rate), without the warm-up.
SCHEDULES: dict[str, Callable[[ScheduleConfig, int], optax.Schedule]] = {
    "poly": poly,
    "cosine": cosine,
}


def build_schedule(config: ScheduleConfig, steps: int) -> optax.Schedule:
    """step -> learning rate, for a training of `steps` updates.

    After a linear rise from 0 in `warmup_steps` updates, the schedule takes the remaining updates.

    Raises:
      ValueError: the warm-up leaves no updates.
    """
    if complaints := config.complaints_for(steps):
        raise ValueError(complaints[0])
    schedule = SCHEDULES[config.schedule](config, steps - config.warmup_steps)
    if not config.warmup_steps:
        return schedule
    rise = optax.linear_schedule(0.0, config.learning_rate, config.warmup_steps)
    return optax.join_schedules([rise, schedule], [config.warmup_steps])
