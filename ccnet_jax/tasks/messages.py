"""Messages about how training begins, and about steps that went wrong or are out of the ordinary."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import optax

from ccnet_jax.common.devices import memory_limit
from ccnet_jax.common.errors import UserError, first_line
from ccnet_jax.config.config import Config
from ccnet_jax.engine.meter import Meter, NotFinite
from ccnet_jax.tasks.norms import single_values_refused
from ccnet_jax.tasks.task import Task


def random_weights_warnings(config: Config, task: Task) -> list[str]:
    """Messages for the start of a training whose weights are all random."""
    if task.is_trained(config) is None:
        return []
    return [
        "warning: config.detection.frozen keeps the backbone's norms, stem and first stage as they are, and "
        "here they are random: pass --config.pretrained, or --config.detection.frozen=False"
    ]


def remarks(meter: Meter, config: Config, task: Task, source: Any) -> Iterator[str]:
    """Messages about steps that are out of the ordinary, with the names of their images."""
    for step, words in meter.remarks():
        yield f"warning: step {step} {words}; its images: {image_names(config, task, source, step)}"


def image_names(config: Config, task: Task, source: Any, step: int) -> str:
    """The names of the images of a step, at most 8."""
    names = task.batch_names(config, source, step)
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


@contextlib.contextmanager
def explain_errors(
    config: Config,
    task: Task,
    source: Any,
    run: object,
    schedule: optax.Schedule,
    planned: Callable[[], int],
) -> Iterator[None]:
    """Inside, a step that is not finite, a lack of device memory, or a norm over one value is a UserError.

    planned: as of `explain_memory_errors`, for a step.
    """
    remedy = (
        "lower --config.batch_size, raise --config.accumulate, or set --config.model.remat=blocks or "
        "--config.dtype=bfloat16; python -m ccnet_jax.cost tells what a config needs"
    )
    try:
        with explain_memory_errors("training", remedy, planned), single_values_refused(config):
            yield
    except NotFinite as trouble:
        step, kept = trouble.step, f"; {run} keeps the weights before it"
        raise UserError(
            f"at step {step} {trouble.words}, at a learning rate of {float(schedule(trouble.made)):.3g}, "
            f"with the images {image_names(config, task, source, step)}: lower "
            "--config.optimizer.learning_rate, in another --workdir, or pass --config.skip_nonfinite=N to "
            "leave out up to N such steps"
            f"{kept if step > 1 else ''}"
        ) from None


@contextlib.contextmanager
def explain_memory_errors(work: str, remedy: str, planned: Callable[[], int] | None = None) -> Iterator[None]:
    """Inside, a lack of device memory becomes a UserError: the work does not fit, and what to do.

    planned: the bytes of each device that XLA plans for it; asked where memory lacks, and may fail there.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        plan = "" if planned is None else plan_words(planned)
        raise UserError(
            f"{work} does not fit into the device's memory ({first_line(error)}){plan}; {remedy}"
        ) from None


def plan_words(planned: Callable[[], int]) -> str:
    """How much is planned, and how much there is, as far as known."""
    with contextlib.suppress(Exception):  # the lack of memory is what is to be told
        words = f": XLA plans {planned() / 1e9:.3g} GB"
        limit = memory_limit()
        return words if limit is None else f"{words}, and the device has {limit / 1e9:.3g} GB"
    return ""
