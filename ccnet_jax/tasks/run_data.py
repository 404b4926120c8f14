"""Where a run meets data: the only place where a trained network gets images with labels."""

import dataclasses
from collections.abc import Callable
from typing import Any

from ccnet_jax.common.labels import Classes, numbered_names
from ccnet_jax.config.config import Config
from ccnet_jax.data.config import DataConfig
from ccnet_jax.data.fitting import fit_classes
from ccnet_jax.data.sources import NoClasses, OtherClasses
from ccnet_jax.tasks import TASKS


def open_images(config: Config, split: str, classes: Classes, run: object, unlabelled: bool = False) -> Any:
    """The images of a split, whose labels are indices of the run's classes; see `fitting.fitted`.

    What the data say of their classes counts. `config.data.classes` says what the numbers mean in data whose
    files do not; those of a run without names ("class 0", ...) say nothing.

    Args:
      config: of the run; `data.dir` may lie elsewhere now.
      split: of the data set.
      classes: of the run.
      run: what to call it in messages.
      unlabelled: whether the split is predicted, so that labels may be missing.

    Raises:
      UserError: the data cannot be opened, or have other classes than the run.
    """
    task = TASKS[config.task]
    opening = task.open_unlabelled if unlabelled else task.open
    source = _with_own_classes(opening, config.data, split, classes)
    where = config.data.name if config.data.dir is None else f"{config.data.name} in {config.data.dir}"
    return fit_classes(source, classes, run, f"{split} of {where}")


def _with_own_classes(
    opening: Callable[[DataConfig, str], Any], data: DataConfig, split: str, classes: Classes
) -> Any:
    """The images with the classes that the data name, or that are counted in their labels."""
    unnamed = dataclasses.replace(data, classes=None, palette=None)
    if data.classes is not None and data.classes == numbered_names(len(data.classes)):
        data = unnamed
    try:
        return opening(data, split)
    except OtherClasses:
        return opening(unnamed, split)
    except NoClasses:
        if not classes.are_numbered:
            raise
        return opening(dataclasses.replace(unnamed, classes=classes.names), split)
