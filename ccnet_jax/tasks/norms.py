"""Refuse to train where a norm would take its statistics from a single value a channel."""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, Sharding

from ccnet_jax.common import devices
from ccnet_jax.common.errors import UserError
from ccnet_jax.config.config import Config
from ccnet_jax.engine.meter import BATCH_MISSING
from ccnet_jax.models.statistics import SingleValue, every_norm_checked
from ccnet_jax.tasks.task import Task


def check_norms(config: Config, task: Task, source: Any, mesh: Mesh, begin: Any, train_step: Any) -> None:
    """Trace training with the shapes of its batches, over all devices and hosts; nothing is computed.

    JAX keeps what it traces, and training does not trace it again.

    Args:
      config: of the run.
      task: of the config.
      source: the images to train on.
      mesh: over which batches are split.
      begin: () -> the state before the first step, as of `make_initial_state`.
      train_step: as of `make_train_step`.

    Raises:
      UserError: a norm of the network would see one value a channel.
    """
    state = _on(devices.replicated_sharding(mesh), begin.eval_shape())
    for size in task.sizes(config, source):
        batch = task.shapes(config, size, config.batch_size)
        if jax.process_count() > 1:
            batch |= {BATCH_MISSING: jax.ShapeDtypeStruct((config.batch_size,), jnp.bool)}
        with single_values_refused(config):
            train_step.eval_shape(state, _on(devices.batch_sharding(mesh), batch))


def _on(sharding: Sharding, shapes: Any) -> Any:
    """The shapes of arrays that lie on devices so: JAX traces a program anew where they lie otherwise."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shapes)


@contextlib.contextmanager
def single_values_refused(config: Config) -> Iterator[None]:
    """Inside, a norm over one value becomes a UserError with the remedy, whoever wrote the norm."""
    try:
        with every_norm_checked():
            yield
    except SingleValue as single:
        parts = f" in config.accumulate={config.accumulate} parts" if config.accumulate > 1 else ""
        raise UserError(
            f"{single.layer} would take mean and variance of each channel from 1 value, so that its result "
            f"would be the same for every image (its input is {'x'.join(map(str, single.shape))}, with "
            f"config.batch_size={config.batch_size}{parts}): {_remedy(config, single)}"
        ) from None


def _remedy(config: Config, single: SingleValue) -> str:
    """Which keys give the norm more values."""
    found = []
    if not single.of_image:
        found.append("raise config.batch_size")
        found += ["lower config.accumulate"] * (config.accumulate > 1)
    if {"context", "context_module"} & set(single.layer.split("/")):
        found.append("choose another config.model.context")
    else:
        found.append(f"raise config.data.{'resize' if config.task == 'instance' else 'crop'}")
    return ", or ".join([", ".join(found[:-1]), found[-1]]) if len(found) > 1 else found[0]
