"""What keeps a run alive has these settings."""

import dataclasses

from ccnet_jax.common.fields import MOST_IMAGES, setting


@dataclasses.dataclass(frozen=True)
class EngineConfig:
    """How long a run lasts, and how often what happens beside its steps."""

    steps: int = setting(40_000, "steps", at_least=1, resumable=True)
    batch_size: int = setting(8, "images of a step, over all devices", at_least=1, at_most=MOST_IMAGES)
    log_every: int = setting(20, "steps from one logged line to the next", at_least=1, resumable=True)
    checkpoint_every: int = setting(1000, "steps from one checkpoint to the next", at_least=1, resumable=True)
    checkpoint_minutes: float | None = setting(
        None, "and at most so many minutes; None for no such limit", above=0, resumable=True, before=None
    )
    keep_checkpoints: int = setting(
        2, "number of the newest checkpoints that are kept", at_least=1, resumable=True, before=2
    )
    keep_every: int | None = setting(
        None,
        "checkpoints of steps that are multiples of it are kept for ever; None for none",
        at_least=1,
        resumable=True,
        before=None,
    )
    save_errors: str = setting(
        "retry",
        "where a checkpoint cannot be written: `retry` goes on and tries again, `stop` ends",
        choices=("retry", "stop"),
        resumable=True,
        before="retry",
    )
    skip_nonfinite: int = setting(
        0,
        "steps whose loss or gradient may be not finite; they change nothing, and one more ends training",
        at_least=0,
        resumable=True,
        before=0,
    )
    loss_spike: float | None = setting(
        10.0,
        "multiple of the median loss from which a step is told, with its images; None tells none",
        above=1,
        resumable=True,
        before=10.0,
    )
    profile: tuple[int, int] | None = setting(
        None,
        "steps of which a trace is written: --config.profile=100:5 traces five, from step 100",
        sides="STEP:COUNT, in files (step, count)",
        separator=":",
        at_least=1,
        resumable=True,
        before=None,
    )
    average_decay: float | None = setting(
        None,
        "decay of a moving average of the weights, which replaces them in tests and exports, as 0.999",
        above=0,
        below=1,
        resumable=True,
        before=None,
    )
    tracker: str | None = setting(
        None,
        "where every logged value is sent, too: `wandb` or `mlflow`; None for nowhere",
        choices=("wandb", "mlflow"),
        resumable=True,
        before=None,
    )
