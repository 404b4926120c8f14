"""How the learning rate changes during training."""

import dataclasses
from collections.abc import Callable

import optax

from ccnet_jax.common.fields import setting


@dataclasses.dataclass(frozen=True)
class ScheduleConfig:
    """The part of `config.optimizer` that says how the learning rate changes."""

    schedule: str = setting(
        "poly", "how the learning rate falls", choices=lambda: SCHEDULES, local=True, before="poly"
    )
    learning_rate: float = setting(
        1e-2, "highest learning rate: of the first step, or after the warm-up", above=0
    )
    min_learning_rate: float = setting(0.0, "learning rate that `poly` and `cosine` end at", at_least=0)
    power: float = setting(0.9, "power of `poly`", at_least=0)
    poly_end: str = setting(
        "after_last_step",
        "where `poly` reaches min_learning_rate: `after_last_step`, as in the authors' code, or at the "
        "`last_step`, as in mmengine",
        choices=("after_last_step", "last_step"),
        before="after_last_step",
    )
    milestones: tuple[int, ...] | None = setting(
        None,
        "steps after which `multi_step` divides the learning rate by 10",
        sides="steps",
        at_least=1,
        before=None,
    )
    warmup_steps: int = setting(
        0,
        "steps in which the learning rate rises linearly before the schedule begins",
        at_least=0,
        before=0,
    )
    warmup_from: float = setting(
        0.0, "fraction of the learning rate that the rise begins with", at_least=0, at_most=1, before=0.0
    )

    def problems(self) -> list[str]:
        """Messages about settings that do not go together."""
        found = []
        if self.min_learning_rate > self.learning_rate:
            found.append(
                f"config.optimizer.min_learning_rate={self.min_learning_rate} must be at most "
                f"config.optimizer.learning_rate={self.learning_rate}"
            )
        if self.schedule == "multi_step" and not self.milestones:
            found.append(
                "config.optimizer.schedule='multi_step' needs the steps after which the learning rate falls: "
                "set "
                "config.optimizer.milestones"
            )
        if min(self.milestones or (self.warmup_steps + 1,)) <= self.warmup_steps:
            found.append(
                f"config.optimizer.milestones={self.milestones} must come after the warm-up of "
                f"config.optimizer.warmup_steps={self.warmup_steps}"
            )
        if len(set(self.milestones or ())) < len(self.milestones or ()):
            found.append(
                f"config.optimizer.milestones={self.milestones} has a step more than once; name each once"
            )
        return found

    def problems_for(self, steps: int) -> list[str]:
        """Messages about settings that do not fit a training of `steps` steps."""
        found = []
        if self.warmup_steps >= steps:
            found.append(
                f"config.optimizer.warmup_steps={self.warmup_steps} must be less than config.steps={steps}; "
                "make it smaller, or train longer"
            )
        if self.schedule == "multi_step" and max(self.milestones or (0,)) >= steps:
            found.append(
                f"config.optimizer.milestones={self.milestones} must lie below config.steps={steps}; lower "
                "them too, or train longer"
            )
        return found


def poly(config: ScheduleConfig, steps: int) -> optax.Schedule:
    """step -> (learning_rate - min_learning_rate) * (1 - step / end) ** power + min_learning_rate.

    The end is `steps`, which comes after the last step, as in the authors' code; or with `poly_end`
    "last_step" steps - 1, the last step itself, as in mmengine's PolyLR. A single step has the
    highest learning rate.
    """
    end = steps - 1 if config.poly_end == "last_step" else steps
    if end == 0:
        return optax.constant_schedule(config.learning_rate)
    return optax.polynomial_schedule(
        config.learning_rate, config.min_learning_rate, config.power, transition_steps=end
    )


def cosine(config: ScheduleConfig, steps: int) -> optax.Schedule:
    """step -> (learning_rate - min_learning_rate) * (1 + cos(pi * step / steps)) / 2 + min_learning_rate."""
    return optax.cosine_decay_schedule(
        config.learning_rate, steps, alpha=config.min_learning_rate / config.learning_rate
    )


def multi_step(config: ScheduleConfig, steps: int) -> optax.Schedule:
    """step -> learning_rate / 10 ** the number of milestones so far, which count the warm-up's steps too.

    Raises:
      ValueError: there are no milestones, or one of them lies in the warm-up.
    """
    if problems := config.problems():
        raise ValueError(problems[0])
    falls = {milestone - config.warmup_steps: 0.1 for milestone in config.milestones or ()}
    return optax.piecewise_constant_schedule(config.learning_rate, falls)


# Functions (config, steps) -> (step -> learning rate), without the warm-up.
SCHEDULES: dict[str, Callable[[ScheduleConfig, int], optax.Schedule]] = {
    "poly": poly,
    "cosine": cosine,
    "multi_step": multi_step,
}


def build_schedule(config: ScheduleConfig, steps: int) -> optax.Schedule:
    """step -> learning rate, for a training of `steps` steps.

    The learning rate rises from `warmup_from` times itself in `warmup_steps` steps; the schedule takes
    the rest.

    Raises:
      ValueError: the warm-up leaves no steps.
    """
    if problems := config.problems_for(steps):
        raise ValueError(problems[0])
    schedule = SCHEDULES[config.schedule](config, steps - config.warmup_steps)
    if not config.warmup_steps:
        return schedule
    start = config.warmup_from * config.learning_rate
    rise = optax.linear_schedule(start, config.learning_rate, config.warmup_steps)
    return optax.join_schedules([rise, schedule], [config.warmup_steps])
