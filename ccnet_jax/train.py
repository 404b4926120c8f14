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
import json
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ccnet_jax.common import compilation_cache, devices
from ccnet_jax.common.devices import say
from ccnet_jax.common.errors import EndAfterSignal, UserError
from ccnet_jax.common.kernels import IMPLEMENTATIONS
from ccnet_jax.common.progress import progress_bar
from ccnet_jax.config import command_line, config_files, records
from ccnet_jax.config import config as configuration
from ccnet_jax.config.config import Config
from ccnet_jax.data.fitting import classes_of_source
from ccnet_jax.data.sources import files_of
from ccnet_jax.engine.checkpoints import Checkpoints, OneHostFailed, set_damaged_aside
from ccnet_jax.engine.clock import StepClock
from ccnet_jax.engine.folder import LATEST, RunFolder
from ccnet_jax.engine.hosts.join import joined
from ccnet_jax.engine.hosts.link import Link
from ccnet_jax.engine.lock import locked_for_all_hosts
from ccnet_jax.engine.meter import Meter, NotFinite, Withdrawn
from ccnet_jax.engine.metric_log import MetricLog, is_evaluated
from ccnet_jax.engine.save_rhythm import SaveRhythm
from ccnet_jax.engine.shared import check_shared
from ccnet_jax.engine.stopping import Stopped, StopSignal
from ccnet_jax.engine.trace import Trace
from ccnet_jax.engine.waiting import waiting
from ccnet_jax.engine.withdrawing import withdrawing
from ccnet_jax.evaluation.evaluate import DRAWN
from ccnet_jax.tasks import TASKS, run_data
from ccnet_jax.tasks.messages import fitting, random_weights_warnings, remarks, sentences_for_updates
from ccnet_jax.tasks.norms import check_norms
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
    # ---------------------------------------------------------------- set up
    began = time.perf_counter()
    source = None
    if config.pretrained and not Checkpoints.exists(run):
        source = pretrained.located(config.pretrained, config.model)
        pretrained.check_path(source)
    process, processes = jax.process_index(), jax.process_count()
    check_devices(config)
    task = TASKS[config.task]
    train_source, eval_source = data_of(config, run)
    task.check(config, train_source, config.batch_size // processes)

    # ------------------------------------------------- mesh, network, optimizer
    mesh = devices.data_mesh(
        jax.devices()[: math.gcd(config.batch_size // config.accumulate, jax.device_count())]
    )
    network = task.network(config, len(train_source.classes))
    optimizer = build_optimizer(config.optimizer, config.steps, task.is_trained(config))
    schedule = build_schedule(config.optimizer, config.steps)
    begin = make_initial_state(network, optimizer, config.seed, devices.replicated(mesh))
    program = make_train_step(task.loss(config, network), optimizer, config.seed, config.accumulate)
    check_norms(config, task, train_source, mesh, begin, program)

    with contextlib.ExitStack() as closing:  # however training ends, what it wrote is whole
        stop = closing.enter_context(StopSignal(say, link))
        closing.enter_context(locked_for_all_hosts(run, say))
        if run.is_shared:
            raise UserError(
                f"{run} holds a network that was shared, and no run; choose another --workdir, and begin "
                f"with that network's backbone by --config.pretrained={run.weights_file}"
            )
        check_still_fits(config, train_source, run)
        for sentence in set_damaged_aside(run):
            say(sentence)
        start = Checkpoints.last_step(run) or 0  # 0 of a converted checkpoint, too
        if start > config.steps:
            raise UserError(
                f"{run} is trained to step {start}, which is beyond config.steps={config.steps}; raise "
                "--config.steps, or choose another --workdir"
            )
        if start == config.steps and is_finished(config, run):
            say(f"{run} is trained to its last step, {start}; nothing to train")
            return
        say(task.summary(config, train_source, config.data.train_split))
        if eval_source is not None:
            say(task.summary(config, eval_source, config.data.eval_split))
        prepare_folder(config, train_source, eval_source, run)

        def planned() -> int:
            """Fails while there is no batch yet."""
            return planned_bytes(program, state, batch)

        closing.enter_context(sentences_for_updates(config, task, train_source, run, schedule, planned))
        state = begin()
        meter = Meter(start, GUARDED, WITHDRAWN, config.skip_nonfinite, config.loss_spike)

        # ---------------------------------------------- resume, or pretrained
        checkpoints = closing.enter_context(Checkpoints(run, config.keep_checkpoints, config.keep_every))
        progress: dict[str, Any] = {}  # a converted checkpoint has none
        if checkpoints.latest_step() is not None:
            checkpoints.drop_best_after(start)
            variables, buffers, progress = checkpoints.restore_last(state.variables, state.optimizer)
            state = State(jax.device_put(jnp.int32(start), state.step.sharding), variables, buffers)
            if progress:
                meter.go_on_from(progress)
            say(f"going on from step {start} of {run}")
        elif source is not None:
            variables = pretrained.load_backbone(source, state.variables)
            state = State(state.step, variables, state.optimizer)
        else:
            for sentence in random_weights_warnings(config, task):
                say(sentence)

        # ------------------------------------------------------------- data
        host_batches = task.batches(config, train_source, start, process, processes)
        closing.callback(host_batches.close)
        if "batches" in progress and process == 0:  # which alone wrote what it knew
            host_batches.go_on_from(progress["batches"])
        # hosts stop together, which they agree upon after an update, if data come for it
        alone = processes == 1
        batches = waiting(devices.prefetched(host_batches, mesh), stop.check if alone else stop.check_late)
        if not alone:
            rows, alike = config.batch_size // processes, config.data.crop is not None
            batches = closing.enter_context(withdrawing(batches, WITHDRAWN, rows, mesh, alike))

        # ------------------------------------------- what goes on beside steps
        clock = closing.enter_context(StepClock(config.batch_size, start, config.steps, began))
        train_step = clock.watched(program)
        test = task.tester(config, network, config.test_mode())
        log = closing.enter_context(MetricLog(run, start, enabled=process == 0))
        parameters = sum(x.size for x in jax.tree.leaves(state.variables["params"]))
        say(
            f"{parameters:,} parameters, {mesh.size} of {jax.device_count()} devices "
            f"({jax.devices()[0].device_kind}), run folder {run}"
        )
        bar = progress_bar(total=config.steps, initial=start, unit="step", disable=process != 0)
        closing.enter_context(bar)
        tell = bar.write if process == 0 else lambda line: None  # one host speaks for all
        window = config.profile if process == 0 else None
        trace = closing.enter_context(Trace(run, window, start, bar.write))
        rhythm = SaveRhythm(config.checkpoint_minutes)

        def guarded(step: int, write: Callable[[], object], needed: bool = False) -> None:
            """Write checkpoints; what is not `needed` may fail, and is tried again."""
            try:
                with clock.paused(saving=True):
                    write()
            except UserError as error:
                if needed or config.save_errors == "stop" or isinstance(error, OneHostFailed):
                    raise
                rhythm.note_failed()
                tell(f"warning: at step {step} {error}; training goes on, and tries again")

        def save(step: int, needed: bool) -> None:
            """Write a checkpoint with all that training knows."""
            guarded(step, lambda: keep_records(config, train_source, run, log), needed)
            rhythm.note_saved()
            progress = meter.progress() | {"batches": host_batches.progress(step)}
            guarded(
                step, lambda: checkpoints.save_last(step, state.variables, state.optimizer, progress), needed
            )
            if needed:
                guarded(step, checkpoints.finish, needed)

        def evaluate(step: int) -> None:
            """Score the weights on the validation split, all else being saved."""
            split = config.data.eval_split
            between = stop.check if alone else do_nothing
            stop.nothing_to_save = checkpoints.finish
            with clock.paused(), fitting("validation", "lower --config.eval_batch_size"):
                result = test(state.variables, eval_source, pictures=run.pictures(split), between=between)
            scores = task.scores(result)
            noted = scores or {"pictures": result["pictures"]}
            log.write(step, {f"{split}/{name}": value for name, value in noted.items()})
            if scores:
                name, score = next(iter(scores.items()))
                tell(f"step {step}: {split} {name} {100 * score:.2f} %")
                guarded(step, lambda: checkpoints.save_best(step, state.variables, score))

        updating = False  # inside an update, the state's buffers are not to be read

        def save_what_is_sound(kind: object, error: BaseException | None, trace: object) -> None:
            """After an error outside an update. Hosts save together: only what all of them meet lets them."""
            met_by_all = alone or isinstance(error, NotFinite | Withdrawn)
            if isinstance(error, Exception) and met_by_all and not updating and meter.step > start:
                checkpoints.met_by_all = error
                with contextlib.suppress(Exception):  # the error itself is what is told
                    save(meter.step, needed=True)
                checkpoints.met_by_all = None

        closing.push(save_what_is_sound)

        # ------------------------------------------------------------ steps
        try:
            eval_due = eval_source is not None and is_due(config.eval_every, start, config.steps)
            if start and eval_due and not is_evaluated(run, start, config.data.eval_split):
                evaluate(start)
            for step, batch in zip(range(start + 1, config.steps + 1), clock.arriving(batches), strict=False):
                meter.settle()  # one step ahead of the devices and no more: a stop is prompt
                updating = True
                with trace.step(step):
                    state, metrics = train_step(state, batch)
                updating = False
                meter.add(step, metrics)
                stop.nothing_to_save = None
                bar.update()
                if step == start + 1 and process == 0:
                    run.point_latest()
                log_due = is_due(config.log_every, step, config.steps)
                eval_due = eval_source is not None and is_due(config.eval_every, step, config.steps)
                stopped_by = stop.agreed()

                # ------------------------------------------------------ log
                if log_due:
                    meter.settle()
                    values = meter.means() | clock.read(step) | host_batches.read(step)
                    values["learning_rate"] = float(schedule(max(meter.made - 1, 0)))
                    if (peak := devices.peak_memory(mesh)) is not None:
                        values["peak_memory_bytes"] = peak
                    log.write(step, values)
                    bar.set_postfix_str(
                        f"loss {values.get('loss', math.nan):.3f}, rate {values['learning_rate']:.2e}, "
                        f"{values['images_per_second']:.1f} images/s",
                        refresh=False,
                    )
                for line in (*clock.hints(), *remarks(meter, config, task, train_source)):
                    tell(line)

                # ---------------------------------- checkpoint, then evaluate
                guarded(step, checkpoints.check)
                late = rhythm.is_late() if alone else log_due and devices.as_first(rhythm.is_late())
                final = step == config.steps
                if final or eval_due or stopped_by or late or step % config.checkpoint_every == 0:
                    meter.settle()
                    save(step, needed=final or bool(stopped_by))
                if stopped_by and not final:
                    raise Stopped(stopped_by)
                if eval_due:
                    evaluate(step)
        except Stopped as stopped:
            if meter.step > start:  # in a wait for data, updates are not saved yet
                meter.settle()
                save(meter.step, needed=True)
            bar.close()
            say(f"stopped after step {meter.step}; the same command with --workdir {run} goes on from there")
            raise EndAfterSignal(128 + stopped.number) from None

        # ---------------------------------------------------------- the end
        if not config.eval_every:  # no validation has drawn pictures
            split = config.data.train_split
            with fitting("drawing", "lower --config.eval_batch_size"):
                test(state.variables, train_source, pictures=run.pictures(split), limit=DRAWN)
        stopped_by = stop.agreed()
    say(f"finished; pictures in {run.all_pictures}, scores: python -m ccnet_jax.eval --workdir {run}")
    if stopped_by:  # since the last update: what was at work has ended
        raise EndAfterSignal(128 + stopped_by)


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
    """Raise UserError where another process has begun another run in the folder in the meantime."""
    if not Checkpoints.exists(run):
        return
    records.check_same_run(run, config)
    if run.classes_file.exists() and records.load_classes(run).names != tuple(source.classes):
        raise UserError(f"another process has just begun {run}; the same command again goes on with its run")


def do_nothing() -> None:
    """For where nothing happens."""


def is_due(every: int, step: int, steps: int) -> bool:
    """Whether something that happens every so many updates, and after the last one, happens after `step`."""
    return step == steps or step % every == 0


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


def keep_records(config: Config, source: Any, run: RunFolder, log: MetricLog) -> None:
    """Everything but the checkpoint to disk; what is missing, since the folder was made anew, again."""
    if jax.process_index() == 0 and run.checkpoints.is_dir() and not run.config_file.exists():
        records.write_records(run, config, classes_of_source(source))
    log.flush()


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
