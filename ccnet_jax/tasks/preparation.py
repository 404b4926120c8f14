"""What a run needs before its first step: devices, data, a folder of its own."""

from typing import Any

import jax
from jax.sharding import Mesh

from ccnet_jax.common.errors import UserError
from ccnet_jax.common.kernels import IMPLEMENTATIONS
from ccnet_jax.common.log import say
from ccnet_jax.config import records
from ccnet_jax.config.config import Config
from ccnet_jax.data.fitting import classes_of_source
from ccnet_jax.data.sources import files_of
from ccnet_jax.engine import metric_log
from ccnet_jax.engine.checkpoints import Checkpoints
from ccnet_jax.engine.folder import RunFolder
from ccnet_jax.engine.shared import check_shared
from ccnet_jax.tasks import TASKS, run_data
from ccnet_jax.training.step import State


def data_of(config: Config, run: RunFolder) -> tuple[Any, Any]:
    """The images to train on, and those to validate on, None where nothing is validated.

    Their classes are those of the run where it has begun, and else those of the images to train on.

    Raises UserError where the run was started with another config, or the classes are others.
    """
    data, split = config.data, config.data.train_split
    if Checkpoints.exists(run) and run.classes_file.exists():
        records.check_same_run(run, config)
        train_source = run_data.open_images(config, split, records.load_classes(run), run)
    else:
        train_source = TASKS[config.task].open(data, split)
    if not config.eval_every:
        return train_source, None
    classes = classes_of_source(train_source)
    return train_source, run_data.open_images(config, data.eval_split, classes, f"{split} of {data.name}")


def check_still_fits(config: Config, source: Any, run: RunFolder) -> None:
    """Raise UserError where the folder holds no run, or another process has just begun another one there."""
    if run.is_shared:
        raise UserError(
            f"{run} holds a network that was shared, and no run; choose another --workdir, and begin "
            f"with that network's backbone by --config.pretrained={run.weights_file}"
        )
    if not Checkpoints.exists(run):
        return
    records.check_same_run(run, config)
    if run.classes_file.exists() and records.load_classes(run).names != tuple(source.classes):
        raise UserError(f"another process has just begun {run}; the same command again goes on with its run")


def is_evaluated(config: Config, run: RunFolder) -> bool:
    """Whether a run that has ended has the scores, or the images, for which this config asks."""
    if config.eval_every:
        return metric_log.is_evaluated(run, config.steps, config.data.eval_split)
    return run.images(config.data.train_split).is_dir()


def check_devices(config: Config) -> None:
    """Raise UserError where the devices at hand cannot run the config. Starts JAX: hosts must have joined."""
    name = config.model.implementation
    if name is not None and (reason := IMPLEMENTATIONS[name].unavailable()):
        raise UserError(
            f"config.model.implementation={name!r} {reason}; leave it None, which chooses what runs here"
        )
    at_once = config.batch_size // config.accumulate
    if jax.process_count() > 1 and at_once % jax.device_count():
        raise UserError(
            f"config.batch_size={config.batch_size} / config.accumulate={config.accumulate} cannot be split "
            f"evenly over the {jax.device_count()} devices of {jax.process_count()} processes; choose a "
            "multiple"
        )


def keep_records(config: Config, source: Any, run: RunFolder) -> None:
    """Write what describes the run where it is missing, since the folder was made anew."""
    if jax.process_index() == 0 and run.checkpoints.is_dir() and not run.config_file.exists():
        records.write_records(run, config, classes_of_source(source))


def prepare_folder(config: Config, source: Any, eval_source: Any, run: RunFolder) -> None:
    """Make the folder; keep the config, the names of the classes, and what works on the run, in it.

    Raises UserError where it cannot be made, what is written there would replace the data, or other processes
    do not see it.
    """
    if jax.process_index() == 0:
        run.check_results(run.own_files, [*files_of(source), *files_of(eval_source)])
        run.remove_fragments()
        records.write_records(run, config, classes_of_source(source))
    check_shared(run)


def say_what_is_there(config: Config, source: Any, eval_source: Any) -> None:
    """Print what the images are that are trained on, and those that are validated on."""
    summary, data = TASKS[config.task].summary, config.data
    say(summary(config, source, data.train_split))
    if eval_source is not None:
        say(summary(config, eval_source, data.eval_split))


def say_what_is_trained(state: State, mesh: Mesh, run: RunFolder) -> None:
    """Print a line on the network, the devices and the folder."""
    parameters = sum(x.size for x in jax.tree.leaves(state.variables["params"]))
    say(
        f"{parameters:,} parameters, {mesh.size} of {jax.device_count()} devices "
        f"({jax.devices()[0].device_kind}), run folder {run}"
    )
