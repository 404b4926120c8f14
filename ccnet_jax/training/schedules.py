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
    learning_rate: float = setting(1e-2, "rate of the first update", above=0)
    min_learning_rate: float = setting(0.0, "rate that the schedule ends at", at_least=0)
    power: float = setting(0.9, "power of the poly schedule", at_least=0)
    warmup_steps: int = setting(
        0,
        "updates in which the rate rises linearly from 0 to where the schedule begins",
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


def poly(config: ScheduleConfig, steps: int) -> optax.Schedule:
    """step -> (learning_rate - min_learning_rate) * (1 - step / steps) ** power + min_learning_rate."""
    return optax.polynomial_schedule(
        config.learning_rate, config.min_learning_rate, config.power, transition_steps=steps
    )


# Functions (config, steps) -> (step -> rate).
SCHEDULES: dict[str, Callable[[ScheduleConfig, int], optax.Schedule]] = {
    "poly": poly,
}


def build_schedule(config: ScheduleConfig, steps: int) -> optax.Schedule:
    """step -> learning rate, for a training of `steps` updates."""
    return SCHEDULES[config.schedule](config, steps)
