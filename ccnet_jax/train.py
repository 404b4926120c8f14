"""Train CCNet.

    python -m ccnet_jax.train --config NAME[:VARIANT] [--workdir DIR] [--config.KEY=VALUE ...]
    python -m ccnet_jax.train --resume [RUN]        # go on with a run, by default the newest
    python -m ccnet_jax.train --list                # all configs and variants with their published scores
    python -m ccnet_jax.train --config NAME --show  # every key of a config

The same command with the same --workdir goes on where the run was stopped, killed or cut off. The folder of a
run holds config.json, metrics.jsonl, TensorBoard events, checkpoints/{last,best} and images/.
"""

import contextlib
import functools
import json
import time
from collections.abc import Sequence

import jax

from ccnet_jax.common import compilation_cache, devices, log, signals
from ccnet_jax.config import command_line, config_files
from ccnet_jax.config import config as configuration
from ccnet_jax.engine.engine import Engine
from ccnet_jax.engine.folder import LATEST, RunFolder
from ccnet_jax.engine.hosts.join import Link, join_hosts
from ccnet_jax.engine.missing_batch import unless_batch_missing
from ccnet_jax.tasks import TASKS, messages, preparation
from ccnet_jax.tasks.callbacks import Training, callbacks
from ccnet_jax.tasks.norms import check_norms
from ccnet_jax.training.optimizers import build_optimizer
from ccnet_jax.training.schedules import build_schedule
from ccnet_jax.training.step import GUARDED, make_initial_state, make_train_step, planned_bytes
from ccnet_jax.weights import pretrained


def train(config: configuration.Config, run: RunFolder, link: Link | None = None) -> None:
    """Train to `config.steps` steps in the folder of the run, from its last checkpoint if it has one.

    `link` connects several processes, which train together; None where there is one.
    """
    # ------------------------------------------------------------ what is trained, and on what
    began = time.perf_counter()
    weights = pretrained.weights_for(config, run)
    task = TASKS[config.task]
    preparation.check_devices(config)
    train_source, eval_source = preparation.data_of(config, run)
    task.check(config, train_source, config.batch_size // jax.process_count())
    mesh = devices.mesh_for(config.batch_size // config.accumulate)
    network = task.network(config, len(train_source.classes))
    optimizer = build_optimizer(config.optimizer, config.steps, task.is_trained(config))
    schedule = build_schedule(config.optimizer, config.steps)
    make_state = make_initial_state(network, optimizer, config.seed, devices.replicated_sharding(mesh))
    loss = task.loss(config, network)
    program = make_train_step(loss, optimizer, config.seed, config.accumulate, unless_batch_missing)
    check_norms(config, task, train_source, mesh, make_state, program)

    # ------------------------------------------------------------ from the first step to the last
    keep = functools.partial(preparation.keep_records, config, train_source, run)
    with Engine(config, run, mesh, link, GUARDED, keep, began) as engine:
        preparation.check_still_fits(config, train_source, run)
        engine.find_start()
        if engine.is_finished() and preparation.is_evaluated(config, run):
            log.say(f"{run} is trained to its last step, {config.steps}; nothing to train")
            return
        preparation.say_what_is_there(config, train_source, eval_source)
        preparation.prepare_folder(config, train_source, eval_source, run)
        engine.enter(
            messages.explain_errors(
                *(config, task, train_source, run, schedule),
                planned=lambda: planned_bytes(program, engine.state, engine.batch),
            )
        )
        state = engine.restore_or(make_state(), functools.partial(pretrained.begun, config, task, weights))
        preparation.say_what_is_trained(state, mesh, run)
        train_step = engine.measure_steps(program)
        test = task.tester(config, network, config.test_mode())
        beside = callbacks(Training(engine, config, task, test, schedule, train_source, eval_source))
        batches = task.batches(config, train_source, engine.start, jax.process_index(), jax.process_count())
        for step, batch in engine.steps(batches, beside, have_one_shape=config.data.crop is not None):
            state, metrics = train_step(state, batch)
            engine.after(step, state, metrics)
    log.say(f"finished; images in {run.all_images}, scores: python -m ccnet_jax.eval --workdir {run}")
    engine.end_after_signal()


def main(command: Sequence[str] | None = None) -> None:
    """The program."""
    arguments = flags().parse(command)
    if arguments.list:
        print(config_files.list_configs())
        return
    run, config = command_line.run_and_config(arguments)
    if arguments.show:
        print(json.dumps(configuration.to_dict(config), indent=2))
        return
    compilation_cache.turn_on()
    with contextlib.ExitStack() as together:
        together.enter_context(signals.interrupted_at_once())  # until `train` notes what comes
        link = None
        if config.distributed:
            link = together.enter_context(join_hosts(config.hosts, configuration.shared_values(config)))
        train(config, run, link)


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
