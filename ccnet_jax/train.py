"""Train CCNet.

    python -m ccnet_jax.train --config NAME[:VARIANT] [--workdir DIR] [--config.KEY=VALUE ...]
    python -m ccnet_jax.train --resume [RUN]        # go on with a run, by default the newest
    python -m ccnet_jax.train --list                # all configs and variants with their published scores
    python -m ccnet_jax.train --config NAME --show  # every key of a config

The same command with the same --workdir goes on where the run was stopped, killed or cut off. The folder of a
run holds config.json, metrics.jsonl, TensorBoard events, checkpoints/{last,best} and pictures/.
"""

import argparse
import contextlib
import functools
import json
import time
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from ccnet_jax.common import compilation_cache, devices
from ccnet_jax.common.devices import say
from ccnet_jax.common.errors import UserError
from ccnet_jax.common.kernels import IMPLEMENTATIONS
from ccnet_jax.config import command_line, config_files, records
from ccnet_jax.config import config as configuration
from ccnet_jax.config.config import Config
from ccnet_jax.data.fitting import classes_of_source
from ccnet_jax.data.sources import files_of
from ccnet_jax.engine.callbacks.log import Log
from ccnet_jax.engine.callbacks.save import Save
from ccnet_jax.engine.callbacks.stop import Stop
from ccnet_jax.engine.checkpoints import Checkpoints
from ccnet_jax.engine.engine import Callback, Engine
from ccnet_jax.engine.folder import LATEST, RunFolder
from ccnet_jax.engine.hosts.join import joined
from ccnet_jax.engine.hosts.link import Link
from ccnet_jax.engine.metric_log import is_evaluated
from ccnet_jax.engine.shared import check_shared
from ccnet_jax.tasks import TASKS, run_data
from ccnet_jax.tasks.callbacks.draw import Draw
from ccnet_jax.tasks.callbacks.evaluate import Evaluate
from ccnet_jax.tasks.callbacks.remark import Remark
from ccnet_jax.tasks.messages import random_weights_warnings, sentences_for_updates
from ccnet_jax.tasks.norms import check_norms
from ccnet_jax.tasks.task import Task
from ccnet_jax.training.optimizers import build_optimizer
from ccnet_jax.training.schedules import build_schedule
from ccnet_jax.training.step import (
    GUARDED,
    WITHDRAWN,
    State,
    make_initial_state,
    make_train_step,
    planned_bytes,
)
from ccnet_jax.weights import pretrained


def train(config: Config, run: RunFolder, link: Link | None = None) -> None:
    """Train to `config.steps` updates in the folder of the run, from its last checkpoint if it has one.

    `link` connects several processes, which train together; None where there is one.
    """
    # ------------------------------------------------------------ what is trained, and on what
    began = time.perf_counter()
    weights = pretrained_weights(config, run)
    task = TASKS[config.task]
    check_devices(config)
    train_source, eval_source = data_of(config, run)
    task.check(config, train_source, config.batch_size // jax.process_count())
    mesh = devices.mesh_for(config.batch_size // config.accumulate)
    network = task.network(config, len(train_source.classes))
    optimizer = build_optimizer(config.optimizer, config.steps, task.is_trained(config))
    schedule = build_schedule(config.optimizer, config.steps)
    make_state = make_initial_state(network, optimizer, config.seed, devices.replicated(mesh))
    program = make_train_step(task.loss(config, network), optimizer, config.seed, config.accumulate)
    check_norms(config, task, train_source, mesh, make_state, program)

    # ------------------------------------------------------------ from the first step to the last
    keep = functools.partial(keep_records, config, train_source, run)
    with Engine(config, run, mesh, link, GUARDED, WITHDRAWN, keep, began) as engine:
        check_still_fits(config, train_source, run)
        if engine.find_start() == config.steps and is_finished(config, run):
            say(f"{run} is trained to its last step, {config.steps}; nothing to train")
            return
        for source, split in (train_source, config.data.train_split), (eval_source, config.data.eval_split):
            if source is not None:
                say(task.summary(config, source, split))
        prepare_folder(config, train_source, eval_source, run)
        engine.enter(
            sentences_for_updates(
                *(config, task, train_source, run, schedule),
                planned=lambda: planned_bytes(program, engine.state, engine.batch),
            )
        )
        state = engine.restore_or(make_state(), functools.partial(begun, config, task, weights))
        say_what_is_trained(state, mesh, run)
        train_step = engine.watched(program)
        test = task.tester(config, network, config.test_mode())
        callbacks: list[Callback] = [
            Log(engine, schedule),
            Remark(engine, config, task, train_source),
            Save(engine),
            Stop(engine),
            *[Evaluate(engine, config, task, test, eval_source)] * (eval_source is not None),
            *[Draw(engine, config, test, train_source)] * (eval_source is None),  # as no evaluation does
        ]
        batches = task.batches(config, train_source, engine.start, jax.process_index(), jax.process_count())
        for step, batch in engine.steps(batches, callbacks, have_one_shape=config.data.crop is not None):
            state, metrics = train_step(state, batch)
            engine.after(step, state, metrics)
    say(f"finished; pictures in {run.all_pictures}, scores: python -m ccnet_jax.eval --workdir {run}")
    engine.end_after_signal()


def pretrained_weights(config: Config, run: RunFolder) -> Any:
    """Where the weights are with which a new run begins; None where they are random, and for an old run.

    Raises UserError where there are none.
    """
    if not config.pretrained or Checkpoints.exists(run):
        return None
    source = pretrained.located(config.pretrained, config.model)
    pretrained.check_path(source)
    return source


def begun(config: Config, task: Task, weights: Any, state: State) -> State:
    """The state with which a new run begins: random, or with the backbone's `weights`."""
    if weights is not None:
        return State(state.step, pretrained.load_backbone(weights, state.variables), state.optimizer)
    for line in random_weights_warnings(config, task):
        say(line)
    return state


def say_what_is_trained(state: State, mesh: Mesh, run: RunFolder) -> None:
    """Print a line on the network, the devices and the folder."""
    parameters = sum(x.size for x in jax.tree.leaves(state.variables["params"]))
    say(
        f"{parameters:,} parameters, {mesh.size} of {jax.device_count()} devices "
        f"({jax.devices()[0].device_kind}), run folder {run}"
    )


def data_of(config: Config, run: RunFolder) -> tuple[Any, Any]:
    """The pictures to train on, and those to validate on, None where nothing is validated.

    Their classes are those of the run where it has begun, and else those of the pictures to train on.

    Raises UserError where the run was started with another config, or the classes are others.
    """
    data, split = config.data, config.data.train_split
    if Checkpoints.exists(run) and run.classes_file.exists():
        records.check_same_run(run, config)
        train_source = run_data.opened(config, split, records.load_classes(run), run)
    else:
        train_source = TASKS[config.task].open(data, split)
    if not config.eval_every:
        return train_source, None
    classes = classes_of_source(train_source)
    return train_source, run_data.opened(config, data.eval_split, classes, f"{split} of {data.name}")


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


def is_finished(config: Config, run: RunFolder) -> bool:
    """Whether nothing is missing of a run that has made its last update: no final evaluation, no pictures."""
    if config.eval_every:
        return is_evaluated(run, config.steps, config.data.eval_split)
    return run.pictures(config.data.train_split).is_dir()


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


def main(command: Sequence[str] | None = None) -> None:
    """The program."""
    arguments = flags().parsed(command)
    if arguments.list:
        print(config_files.listing())
        return
    run, config = resumed_run(arguments) if arguments.resume is not None else named_run(arguments)
    if arguments.show:
        print(json.dumps(configuration.to_dict(config), indent=2))
        return
    compilation_cache.turn_on()
    with contextlib.ExitStack() as together:
        together.enter_context(command_line.interrupted_at_once())  # until `train` notes what comes
        link = None
        if config.distributed:
            link = together.enter_context(joined(config.hosts, configuration.shared_values(config)))
        train(config, run, link)


def named_run(arguments: argparse.Namespace) -> tuple[RunFolder, Config]:
    """The folder and the config that --workdir and --config name."""
    config = command_line.config_of(arguments)
    if arguments.workdir is not None:
        return RunFolder.at(arguments.workdir), config
    if config.distributed:
        raise UserError("with --config.distributed=True pass --workdir, so that all hosts share one folder")
    return RunFolder.new(command_line.config_name(arguments).title), config


def resumed_run(arguments: argparse.Namespace) -> tuple[RunFolder, Config]:
    """The run that --resume names, and its config with the changes on the command line."""
    if any(given is not None for given in (arguments.workdir, arguments.config, arguments.named)):
        raise UserError("--resume takes config and folder from the run; omit --config and --workdir")
    command_line.run_parts(arguments)
    run = RunFolder.at(arguments.resume)
    config = records.load_config(run)
    return run, configuration.parse(configuration.to_dict(config), arguments.overrides)


def flags() -> command_line.Parser:
    """The command line."""
    parser = command_line.Parser("ccnet_jax.train", __doc__)
    parser.add_config()
    parser.add_argument(
        "--workdir", help="folder of the run, new or to go on with; default runs/NAME-DATE-TIME"
    )
    parser.add_argument("--resume", nargs="?", const=str(LATEST), metavar="RUN", help="go on with this run")
    parser.add_argument("--list", action="store_true", help="print every config and variant, and end")
    parser.add_argument("--show", action="store_true", help="print every key of the config, and end")
    return parser


if __name__ == "__main__":
    command_line.run(main)
