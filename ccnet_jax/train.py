"""Train CCNet.

    python -m ccnet_jax.train --config configs/NAME.py[:VARIANT] [--workdir DIR] [--config.KEY=VALUE ...]

The same command with the same --workdir goes on where the run was stopped, killed or cut off. A run's
folder holds config.json, metrics.jsonl, TensorBoard events, checkpoints/{last,best} and pictures/.
"""

import contextlib
import datetime
import functools
import math
import os
import pathlib
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import flax
import jax
import jax.numpy as jnp
import ml_collections
import optax
import tqdm
from absl import flags, logging
from jax.experimental import multihost_utils
from ml_collections import config_flags

from ccnet_jax import config as configuration
from ccnet_jax import errors, losses, pretrained, sharding
from ccnet_jax.checkpoint import Checkpoints
from ccnet_jax.data import pipeline
from ccnet_jax.data.files import Source
from ccnet_jax.errors import UserError
from ccnet_jax.inference import DRAWN, Testing, evaluate, predictor
from ccnet_jax.logs import MetricLog
from ccnet_jax.models.ccnet import CCNet
from ccnet_jax.optimizer import poly_schedule, sgd

_CONFIG = config_flags.DEFINE_config_file("config", help_string="configs/NAME.py[:VARIANT]")
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "folder of the run, new or to go on with; default runs/NAME-DATE-TIME"
)


@flax.struct.dataclass
class State:
    """All that training changes: step int32 [], {"params", "batch_stats"}, the optimizer's buffers."""

    step: jax.Array
    variables: Any
    optimizer: Any


def initial_state(model: CCNet, optimizer: optax.GradientTransformation, seed: int) -> State:
    """Random weights (gamma 0), running mean 0 and variance 1, empty buffers."""
    variables = model.init(jax.random.key(seed), jnp.zeros((1, 64, 64, 3)))
    return State(jnp.zeros((), jnp.int32), variables, optimizer.init(variables["params"]))


def make_loss(model: CCNet, loss: Any) -> Callable[..., tuple[jax.Array, Any]]:
    """The training loss: main head's (OHEM) cross-entropy + auxiliary_weight * the auxiliary head's."""
    main_loss = losses.cross_entropy
    if loss.ohem:
        main_loss = functools.partial(
            losses.ohem_cross_entropy, threshold=loss.ohem_threshold, min_kept=loss.ohem_min_kept
        )

    def loss_fn(params: Any, batch_stats: Any, batch: dict[str, jax.Array], key: jax.Array):
        """-> loss [], (metrics, the new batch_stats)."""
        (logits, auxiliary), updated = model.apply(
            {"params": params, "batch_stats": batch_stats},
            batch["image"],
            train=True,
            rngs={"dropout": key},
            mutable=["batch_stats"],
        )
        main = main_loss(logits, batch["label"])
        side = losses.cross_entropy(auxiliary, batch["label"])
        total = main + loss.auxiliary_weight * side
        return total, ({"loss": total, "main_loss": main, "auxiliary_loss": side}, updated["batch_stats"])

    return loss_fn


def make_train_step(
    model: CCNet, optimizer: optax.GradientTransformation, loss: Any, seed: int
) -> Callable[[State, dict[str, jax.Array]], tuple[State, dict[str, jax.Array]]]:
    """(state, batch) -> (state, metrics), compiled.

    The batch is {"image": uint8 [B, H, W, 3], "label": uint8 [B, H, W]}, split over the mesh; since the
    program is written for the whole batch, its mean loss, gradients and batch statistics are the
    global batch's on any number of devices. The state's buffers are reused.
    """
    gradient = jax.value_and_grad(make_loss(model, loss), has_aux=True)

    @functools.partial(jax.jit, donate_argnums=0)
    def train_step(state: State, batch: dict[str, jax.Array]):
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        params = state.variables["params"]
        (_, (metrics, batch_stats)), gradients = gradient(params, state.variables["batch_stats"], batch, key)
        metrics["gradient_norm"] = optax.tree.norm(gradients)
        updates, buffers = optimizer.update(gradients, state.optimizer, params)
        params = optax.apply_updates(params, updates)
        metrics["parameter_norm"] = optax.tree.norm(params)
        return State(state.step + 1, {"params": params, "batch_stats": batch_stats}, buffers), metrics

    return train_step


def train(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Train to `config.steps` updates in `workdir`, from its last checkpoint if it has one."""
    # ---------------------------------------------------------------- set up
    configuration.check(config)
    if config.pretrained and not Checkpoints.there(workdir):
        pretrained.check_path(config.pretrained)
    if config.distributed:
        join_hosts()
    configuration.check_device(config)
    process, processes = jax.process_index(), jax.process_count()
    if processes > 1 and config.batch_size % jax.device_count():
        raise UserError(
            f"config.batch_size={config.batch_size} cannot be split evenly over the {jax.device_count()} "
            f"devices of {processes} hosts; choose a multiple"
        )
    train_source = pipeline.open_source(config.data, config.data.train_split)
    eval_source = pipeline.open_source(config.data, config.data.eval_split) if config.eval_every else None
    prepare_workdir(config, train_source, workdir)

    # ------------------------------------------------- mesh, model, optimizer
    mesh = sharding.data_mesh(jax.devices()[: math.gcd(config.batch_size, jax.device_count())])
    model = configuration.build_model(config, len(train_source.classes))
    optimizer = sgd(config.optimizer, config.steps)
    schedule = poly_schedule(config.optimizer, config.steps)
    state = jax.jit(
        functools.partial(initial_state, model, optimizer, config.seed),
        out_shardings=sharding.replicated(mesh),
    )()

    with contextlib.ExitStack() as closing:  # however training ends, what it wrote is whole
        # ---------------------------------------------- resume, or pretrained
        checkpoints = closing.enter_context(Checkpoints(workdir))
        resumed = checkpoints.latest_step()  # 0 of a converted checkpoint
        start = resumed or 0
        if resumed is not None:
            checkpoints.drop_best_after(start)
            variables, buffers = checkpoints.restore_last(state.variables, state.optimizer)
            state = State(jax.device_put(jnp.int32(start), state.step.sharding), variables, buffers)
            say(f"going on from step {start} of {workdir}")
        elif config.pretrained:
            state = state.replace(variables=pretrained.load_backbone(config.pretrained, state.variables))
        if start >= config.steps:
            say(f"{workdir} has all its {config.steps} steps; nothing to train")
            return

        # ------------------------------------------------------------- data
        batches = pipeline.train_batches(
            train_source, config.data, config.batch_size, config.seed, start, process, processes
        )
        batches = sharding.prefetched(batches, mesh)

        # ------------------------------------------------------------ steps
        train_step = make_train_step(model, optimizer, config.loss, config.seed)
        predict = predictor(model, Testing.of(config))
        log = closing.enter_context(MetricLog(workdir, start, enabled=process == 0))
        stop = closing.enter_context(StopSignal())
        parameters = sum(x.size for x in jax.tree.leaves(state.variables["params"]))
        say(
            f"{parameters:,} parameters, {mesh.size} of {jax.device_count()} devices "
            f"({jax.devices()[0].device_kind}), run folder {workdir}"
        )

        bar = tqdm.tqdm(
            total=config.steps, initial=start, unit="step", dynamic_ncols=True, disable=process != 0
        )
        closing.enter_context(bar)
        since, last_logged, metrics = time.perf_counter(), start, {}
        for step, batch in zip(range(start + 1, config.steps + 1), batches, strict=False):
            jax.block_until_ready(metrics)  # one step ahead of the devices and no more: Ctrl-C is prompt
            state, metrics = train_step(state, batch)
            bar.update()
            if step == start + 1:
                point_latest(workdir)
            final = step == config.steps
            log_due = final or step % config.log_every == 0
            checkpoint_due = final or step % config.checkpoint_every == 0
            eval_due = config.eval_every and (final or step % config.eval_every == 0)
            # hosts that ask one another wait for the step, so they do when it is waited for anyway
            stopped_by = stop.agreed() if processes == 1 or log_due else 0

            # ---------------------------------------------------------- log
            if log_due or checkpoint_due or eval_due or stopped_by:
                values = {name: float(value) for name, value in metrics.items()}
                if not all(map(math.isfinite, values.values())):
                    raise UserError(
                        f"at step {step} the loss is {values['loss']} and the gradient's norm "
                        f"{values['gradient_norm']}: lower --config.optimizer.learning_rate, in another "
                        f"--workdir; {workdir} keeps its last good checkpoint"
                    )
                now = time.perf_counter()
                rate = config.batch_size * (step - last_logged) / (now - since)
                since, last_logged = now, step
                values |= {"learning_rate": float(schedule(step - 1)), "images_per_second": rate}
                log.write(step, values)
                bar.set_postfix_str(
                    f"loss {values['loss']:.3f}, rate {values['learning_rate']:.2e}, {rate:.1f} images/s",
                    refresh=False,
                )

            # ----------------------------------------------------- evaluate
            if eval_due and not stopped_by:
                split = config.data.eval_split
                result = evaluate(
                    predict,
                    state.variables,
                    eval_source,
                    config.eval_batch_size,
                    workdir / "pictures" / split,
                )
                log.write(
                    step, {f"{split}/{name}": result[name] for name in ("mIoU", "mAcc", "pixel_accuracy")}
                )
                if process == 0:
                    bar.write(f"step {step}: {split} mIoU {100 * result['mIoU']:.2f} %")
                checkpoints.save_best(step, state.variables, result["mIoU"])
                stopped_by = stop.agreed()

            # --------------------------------------------------- checkpoint
            if checkpoint_due or stopped_by:
                checkpoints.save_last(step, state.variables, state.optimizer)
            if eval_due or checkpoint_due:
                since = time.perf_counter()
            if stopped_by and not final:
                bar.close()
                say(
                    f"stopped after step {step}; the same command with --workdir {workdir} goes on from there"
                )
                sys.exit(128 + stopped_by)

        # ---------------------------------------------------------- the end
        if not config.eval_every:  # no validation has drawn pictures
            split = config.data.train_split
            pictures = workdir / "pictures" / split
            evaluate(predict, state.variables, train_source, config.eval_batch_size, pictures, limit=DRAWN)
    say(f"finished; pictures in {workdir / 'pictures'}, scores: python -m ccnet_jax.eval --workdir {workdir}")


class StopSignal:
    """Inside `with`, a first Ctrl-C or SIGTERM is noted, so that training ends after a step, saved.

    A second one ends the process at once.
    """

    def __enter__(self) -> "StopSignal":
        self._received = 0
        self._before = {
            number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)
        }
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: Any) -> None:
        self._received = number
        for other in self._before:
            signal.signal(other, signal.SIG_DFL)

    def agreed(self) -> int:
        """The signal's number, 0 for none; the same in all processes, whichever of them received one."""
        if jax.process_count() == 1:
            return self._received
        return int(multihost_utils.process_allgather(jnp.int32(self._received)).max())


def say(line: str) -> None:
    """Print, in the first process only."""
    if jax.process_index() == 0:
        print(line, flush=True)


def join_hosts() -> None:
    """Connect this process with the run's others. Raises UserError where nothing says how."""
    try:
        jax.distributed.initialize()
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"config.distributed is True but the hosts cannot find one another ({error}); start under SLURM, "
            "Open MPI or Kubernetes, or leave it False on one machine"
        ) from None


def prepare_workdir(config: ml_collections.ConfigDict, source: Source, workdir: pathlib.Path) -> None:
    """Make the folder and keep the config and the names of the classes in it.

    Raises UserError where the folder holds a run of another config, or is no folder.
    """
    if workdir.exists() and not workdir.is_dir():
        raise UserError(f"--workdir {workdir} is a file; choose a folder")
    if Checkpoints.there(workdir):
        configuration.check_same_run(config, workdir)
    if jax.process_index() == 0:
        workdir.mkdir(parents=True, exist_ok=True)
        configuration.save(config, workdir)
        configuration.save_classes(source, workdir)


def point_latest(workdir: pathlib.Path) -> None:
    """Make runs/latest a link to the run."""
    if jax.process_index() == 0:
        runs = pathlib.Path("runs")
        runs.mkdir(exist_ok=True)
        link = runs / f".latest-{os.getpid()}"
        link.symlink_to(os.path.relpath(workdir.resolve(), runs.resolve()))
        link.replace(runs / "latest")


def main() -> None:
    """The program."""
    logging.set_verbosity(logging.ERROR)  # Orbax reports every file at the levels below
    if _CONFIG.value is None:
        raise UserError("pass --config configs/NAME.py; --help lists what else there is")
    workdir = _WORKDIR.value
    if workdir is None and _CONFIG.value.get("distributed"):
        raise UserError("with --config.distributed=True pass --workdir, so that all hosts share one folder")
    if workdir is None:
        name = pathlib.Path(config_flags.get_config_filename(flags.FLAGS["config"])).stem
        workdir = f"runs/{name}-{datetime.datetime.now():%Y%m%d-%H%M%S}"
    train(_CONFIG.value, pathlib.Path(workdir))


if __name__ == "__main__":
    errors.run(main)
