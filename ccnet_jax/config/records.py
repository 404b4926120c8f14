"""The records of a run: its config and its classes, as they lie in its folder.

The folder itself (`engine.folder`) knows no key and no data set.
"""

import dataclasses
import os

import numpy as np

from ccnet_jax.common.errors import UserError, read_json, write_json
from ccnet_jax.common.kernels import IMPLEMENTATIONS
from ccnet_jax.common.labels import Classes
from ccnet_jax.common.log import say
from ccnet_jax.config import config as configuration
from ccnet_jax.config.config import Config
from ccnet_jax.engine.folder import RunFolder


def write_records(run: RunFolder, config: Config, classes: Classes) -> None:
    """Write all that a run has beside checkpoints, metrics and images."""
    save_config(run, configuration.without_place(config))
    save_classes(run, classes)
    run.add_versions()


# ------------------------------------------------------------------ config
def save_config(run: RunFolder, config: Config) -> None:
    """Write config.json."""
    write_json(run.config_file, configuration.to_dict(config))


def load_config(run: RunFolder) -> Config:
    """The run's config, with a backend of the op that can run here.

    Raises UserError where the folder is no run, or its config.json is corrupt.
    """
    config = _saved_config(run)
    if config is None:
        raise UserError(f"{run} is not a run: it has no config.json; train first, or pass --workdir")
    name = config.model.implementation
    if name is not None and (name not in IMPLEMENTATIONS or IMPLEMENTATIONS[name].unavailable()):
        say(f"warning: model.implementation={name!r} cannot run here: the op chooses another")
        model = dataclasses.replace(config.model, implementation=None)
        return dataclasses.replace(config, model=model)
    return config


def check_same_run(run: RunFolder, config: Config) -> None:
    """Raise UserError where the run was started with another config, naming the keys.

    Whether its classes are those of the data, `tasks.run_data` tells.
    """
    saved = _saved_config(run)
    if saved is None:
        raise UserError(
            f"{run} has checkpoints but no {run.config_file.name}, which says of what; restore that "
            "file, or choose another --workdir"
        )
    if keys := configuration.different_keys(config, saved):
        here, before = (configuration.flat(configuration.to_dict(c)) for c in (config, saved))
        listed = ", ".join(f"{name}={before[name]!r}, not {here[name]!r}" for name in keys)
        raise UserError(f"{run} holds a run with {listed}; repeat its config, or choose another --workdir")


def _saved_config(run: RunFolder) -> Config | None:
    """What config.json holds, None where there is none. Raises UserError where it is corrupt."""
    if not os.path.lexists(run.config_file):
        return None
    values = read_json(run.config_file, "restore it")
    if message := configuration.no_config(values):
        raise UserError(f"{run.config_file} {message}; restore that file")
    try:
        return configuration.parse(values, made_elsewhere=True)
    except UserError as error:
        raise UserError(
            f"{run.config_file}: {error} (if a file of your own adds it: pass --parts FILE)"
        ) from None


# ----------------------------------------------------------------- classes
def save_classes(run: RunFolder, classes: Classes) -> None:
    """Write classes.json: to predict, one needs no data set.

    It has the names, the colours, and the numbers that stand for them in the label files.
    """
    values = {"classes": list(classes.names), "palette": classes.palette.tolist()}
    write_json(run.classes_file, values | {"numbers": classes.numbers.tolist()})


def load_classes(run: RunFolder) -> Classes:
    """The classes of the run, by its classes.json. Raises UserError where that cannot be read."""
    if not os.path.lexists(run.classes_file):
        raise UserError(f"{run} has no classes.json; restore that file")
    values = read_json(run.classes_file, "restore it")
    try:
        names, palette = values["classes"], np.array(values["palette"], np.uint8)
        if not all(isinstance(name, str) for name in names) or palette.shape != (len(names), 3):
            raise ValueError("one name and one colour for each class are needed")
        return Classes.with_numbers(tuple(names), palette, values["numbers"])
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise UserError(f"{run.classes_file} cannot be read ({error!r}); restore it") from None
