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
import math
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp

from ccnet_jax import command_line, compilation_cache, config_files, devices
from ccnet_jax import config as configuration
from ccnet_jax.config import Config
from ccnet_jax.devices import say
from ccnet_jax.errors import UserError
from ccnet_jax.evaluation.evaluate import DRAWN
from ccnet_jax.hosts.join import joined
from ccnet_jax.hosts.link import Link
from ccnet_jax.progress import progress_bar
from ccnet_jax.run.checkpoints import Checkpoints
from ccnet_jax.run.folder import LATEST, RunFolder
from ccnet_jax.run.metric_log import MetricLog
from ccnet_jax.run.shared import check_shared
from ccnet_jax.run.trace import Trace
from ccnet_jax.tasks import TASKS
from ccnet_jax.training.clock import StepClock
from ccnet_jax.training.optimizers import build_optimizer
from ccnet_jax.training.schedules import build_schedule
from ccnet_jax.training.step import Metrics, State, initial_state, make_train_step
from ccnet_jax.training.stopping import StopSignal
from ccnet_jax.weights import pretrained
from kernels.criss_cross import IMPLEMENTATIONS


def train(config: Config, run: RunFolder, link: Link | None = None) -> None:
    """Train to `config.steps` updates in the folder of the run, from its last checkpoint if it has one.

    `link` connects several processes, which train together; None where there is one.
    """
    # ---------------------------------------------------------------- set up
    began = time.perf_counter()
    if config.pretrained and not Checkpoints.exists(run):
        pretrained.check_path(config.pretrained)
    process, processes = jax.process_index(), jax.process_count()
    check_devices(config)
    task = TASKS[config.task]
    train_source = task.open(config.data, config.data.train_split)
    config = task.completed(config, train_source)
    eval_source = task.open(config.data, config.data.eval_split) if config.eval_every else None
    if Checkpoints.exists(run):
        run.check_same_run(config)
    start = Checkpoints.last_step(run) or 0  # 0 of a converted checkpoint, too
    if start >= config.steps:
        say(f"{run} is already trained to step {start} of {config.steps}; nothing to train")
        return
    say(task.summary(config, train_source, config.data.train_split))
    if eval_source is not None:
        say(task.summary(config, eval_source, config.data.eval_split))
    task.check(config, train_source, config.batch_size // processes)
    prepare_folder(config, train_source, run)

    # ------------------------------------------------- mesh, network, optimizer
    mesh = devices.data_mesh(
        jax.devices()[: math.gcd(config.batch_size // config.accumulate, jax.device_count())]
    )
    network = task.network(config, len(train_source.classes))
    optimizer = build_optimizer(config.optimizer, config.steps, task.is_trained(config))
    schedule = build_schedule(config.optimizer, config.steps)
    state = jax.jit(
        functools.partial(initial_state, network, optimizer, config.seed),
        out_shardings=devices.replicated(mesh),
    )()

    with contextlib.ExitStack() as closing:  # however training ends, what it wrote is whole
        # ---------------------------------------------- resume, or pretrained
        checkpoints = closing.enter_context(Checkpoints(run))
        if checkpoints.latest_step() is not None:
            checkpoints.drop_best_after(start)
            variables, buffers = checkpoints.restore_last(state.variables, state.optimizer)
            state = State(jax.device_put(jnp.int32(start), state.step.sharding), variables, buffers)
            say(f"going on from step {start} of {run}")
        elif config.pretrained:
            state = state.replace(variables=pretrained.load_backbone(config.pretrained, state.variables))

        # ------------------------------------------------------------- data
        host_batches = task.batches(config, train_source, start, process, processes)
        closing.callback(host_batches.close)
        batches = devices.prefetched(host_batches, mesh)

        # ------------------------------------------------------------ steps
        clock = closing.enter_context(StepClock(config.batch_size, start, config.steps, began))
        train_step = clock.watched(
            make_train_step(task.loss(config, network), optimizer, config.seed, config.accumulate)
        )
        test = task.tester(config, network, config.test_mode())
        log = closing.enter_context(MetricLog(run, start, enabled=process == 0))
        stop = closing.enter_context(StopSignal(link))
        parameters = sum(x.size for x in jax.tree.leaves(state.variables["params"]))
        say(
            f"{parameters:,} parameters, {mesh.size} of {jax.device_count()} devices "
            f"({jax.devices()[0].device_kind}), run folder {run}"
        )

        bar = progress_bar(total=config.steps, initial=start, unit="step", disable=process != 0)
        closing.enter_context(bar)
        window = config.profile if process == 0 else None
        trace = closing.enter_context(Trace(run, window, start, bar.write))
        metrics: Metrics = {}
        for step, batch in zip(range(start + 1, config.steps + 1), clock.arriving(batches), strict=False):
            jax.block_until_ready(metrics)  # one step ahead of the devices and no more: Ctrl-C is prompt
            with trace.step(step):
                state, metrics = train_step(state, batch)
            bar.update()
            if step == start + 1 and process == 0:
                run.point_latest()
            final = step == config.steps
            log_due = final or step % config.log_every == 0
            checkpoint_due = final or step % config.checkpoint_every == 0
            eval_due = eval_source is not None and (final or step % config.eval_every == 0)
            stopped_by = stop.agreed()

            # ---------------------------------------------------------- log
            if log_due or checkpoint_due or eval_due or stopped_by:
                values = {name: float(value) for name, value in metrics.items()}
                if not all(map(math.isfinite, values.values())):
                    raise UserError(
                        f"at step {step} the loss is {values['loss']} and the gradient's norm "
                        f"{values['gradient_norm']}: lower --config.optimizer.learning_rate, in another "
                        f"--workdir; {run} keeps its last good checkpoint"
                    )
                values |= {"learning_rate": float(schedule(step - 1))} | clock.read(step)
                if (peak := devices.peak_memory(mesh)) is not None:
                    values["peak_memory_bytes"] = peak
                log.write(step, values)
                bar.set_postfix_str(
                    f"loss {values['loss']:.3f}, rate {values['learning_rate']:.2e}, "
                    f"{values['images_per_second']:.1f} images/s",
                    refresh=False,
                )
                for hint in clock.hints() if process == 0 else ():
                    bar.write(hint)

            # ----------------------------------------------------- evaluate
            if eval_source is not None and eval_due and not stopped_by:
                split = config.data.eval_split
                result = test(state.variables, eval_source, pictures=run.pictures(split))
                scores = task.scores(result)
                log.write(step, {f"{split}/{name}": score for name, score in scores.items()})
                if scores:
                    name, score = next(iter(scores.items()))
                    if process == 0:
                        bar.write(f"step {step}: {split} {name} {100 * score:.2f} %")
                    checkpoints.save_best(step, state.variables, score)
                stopped_by = stop.agreed()

            # --------------------------------------------------- checkpoint
            if checkpoint_due or stopped_by:
                checkpoints.save_last(step, state.variables, state.optimizer)
            if eval_due or checkpoint_due:
                clock.restart()
            if stopped_by and not final:
                bar.close()
                say(f"stopped after step {step}; the same command with --workdir {run} goes on from there")
                sys.exit(128 + stopped_by)

        # ---------------------------------------------------------- the end
        if not config.eval_every:  # no validation has drawn pictures
            split = config.data.train_split
            test(state.variables, train_source, pictures=run.pictures(split), limit=DRAWN)
    say(f"finished; pictures in {run.all_pictures}, scores: python -m ccnet_jax.eval --workdir {run}")


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


def prepare_folder(config: Config, source: Any, run: RunFolder) -> None:
    """Make the folder; keep the config, the names of the classes, and what works on the run, in it.

    Raises UserError where other processes do not see it.
    """
    if jax.process_index() == 0:
        run.save_config(configuration.without_place(config))
        run.save_classes(source.classes, source.palette)
        run.add_versions()
    check_shared(run)


def main() -> None:
    """The program."""
    parser = command_line.Parser("ccnet_jax.train", __doc__)
    parser.add_config()
    parser.add_argument(
        "--workdir", help="folder of the run, new or to go on with; default runs/NAME-DATE-TIME"
    )
    parser.add_argument("--resume", nargs="?", const=str(LATEST), metavar="RUN", help="go on with this run")
    parser.add_argument("--list", action="store_true", help="print every config and variant, and end")
    parser.add_argument("--show", action="store_true", help="print every key of the config, and end")
    arguments = parser.parsed()
    if arguments.list:
        print(config_files.listing())
        return
    run, config = resumed_run(arguments) if arguments.resume is not None else named_run(arguments)
    if arguments.show:
        print(json.dumps(configuration.to_dict(config), indent=2))
        return
    compilation_cache.turn_on()
    with contextlib.ExitStack() as together:
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
    config = run.load_config()
    return run, configuration.parse(configuration.to_dict(config), arguments.overrides)


if __name__ == "__main__":
    command_line.run(main)
