"""Checkpoints of a run, by Orbax: the last ones, everything to go on with, and `best`, the weights alone.

A checkpoint is written under a temporary name, with the checksums of its files, and renamed when it is whole:
a process killed at any moment leaves the ones before. One whose files are not what was written is set aside.
"""

import contextlib
import functools
import logging
import operator
import pathlib
import shutil
import sys
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import traverse_util
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from ccnet_jax.common import devices
from ccnet_jax.common.errors import UserError, explain_write_errors, first_line
from ccnet_jax.common.log import say
from ccnet_jax.engine import checksums, weights_file
from ccnet_jax.engine.checkpoint_names import check_names
from ccnet_jax.engine.folder import RunFolder
from ccnet_jax.engine.hosts.join import comes_from_others

Progress = dict[str, Any]  # what training knows beside arrays, as JSON
_LAST_ITEMS = ("variables", "optimizer")
# the item of averaged variables, which are used instead of the newest where there are any
AVERAGE = "average"


@functools.cache
def _let_one_device_write() -> None:
    """From now on, in this process: every device holds the weights whole, and one of them writes them.

    Orbax would let each write a slice. Programs of their own, one for each shape, cut the slices out: with
    eight devices training would stand still for seconds.
    """
    handler = ocp.type_handlers.ArrayHandler(use_replica_parallel=False)
    logger = logging.getLogger("absl")  # Orbax warns by it of what is meant here
    level = logger.level
    logger.setLevel(logging.ERROR)
    ocp.type_handlers.register_type_handler(jax.Array, handler, override=True)
    logger.setLevel(level)


class OneHostFailed(UserError):
    """One of several hosts could not write its part of a checkpoint, and the others wait for it."""


class Checkpoints:
    """The folder `checkpoints/` of a run.

    `last/STEP/{variables,optimizer,progress}` of the newest steps, and `best/STEP/variables`.

    Args:
      run: the folder of the run.
      keep: number of the newest checkpoints in `last`.
      keep_every: those of steps that are multiples of it stay, too; None for none.

    Raises:
      UserError: the folder cannot be made.

    Attributes:
      met_by_all_hosts: the error that ends training, where all hosts have it and save together after it.
        After any other one, a host waits for no other.
    """

    def __init__(self, run: RunFolder, keep: int = 2, keep_every: int | None = None):
        _let_one_device_write()
        self._root = run.checkpoints.resolve()
        with explain_write_errors(self._root, "choose another --workdir"):
            for name in ("last", "best"):
                (self._root / name).mkdir(parents=True, exist_ok=True)
        self._options: dict[str, dict[str, Any]] = {
            "last": {"max_to_keep": keep, "keep_period": keep_every},
            "best": {"max_to_keep": 1, "best_fn": operator.itemgetter("score")},
        }
        self.met_by_all_hosts: BaseException | None = None
        self._failed: set[str] = set()  # where this one of several hosts could not write
        self._managers = {name: self._manager(name) for name in self._options}

    def _manager(self, name: str) -> ocp.CheckpointManager:
        folder = self._root / name

        def seal() -> None:
            """Checksums of what Orbax has written and is about to rename."""
            if jax.process_index() == 0:
                for path in _fragments_in(folder):
                    checksums.seal(path)

        hosts_meet = ocp.multihost.get_barrier_sync_fn()

        def meet(*, key: str, timeout_ms: int) -> None:
            """Where Orbax lets hosts wait for one another: for nobody, after a failure, as nobody comes."""
            error = sys.exc_info()[1]
            if error not in (None, self.met_by_all_hosts) and jax.process_count() > 1:
                self._failed.add(name)
                raise error
            hosts_meet(key=key, timeout_ms=timeout_ms)

        return ocp.CheckpointManager(
            folder,
            options=ocp.CheckpointManagerOptions(
                cleanup_tmp_directories=True,
                async_options=ocp.AsyncOptions(post_finalization_callback=seal, barrier_sync_fn=meet),
                **self._options[name],
            ),
        )

    def save_last(
        self,
        step: int,
        variables: dict[str, Any],
        optimizer: Any,
        progress: Progress | None = None,
        others: dict[str, Any] | None = None,
    ) -> None:
        """Write everything, while training goes on. `step` is the number of steps so far.

        `others` are more arrays by name, which `restore_item` gives back.

        Raises UserError where it cannot be written; see `check`.
        """
        self._make_ready("last")
        if step == self.latest_step():
            return
        self._finish_where_hosts_wait()
        save = ocp.args.StandardSave
        args = ocp.args.Composite(
            variables=save(variables),
            optimizer=save(optimizer),
            progress=ocp.args.JsonSave(progress or {}),
            **{name: save(arrays) for name, arrays in (others or {}).items()},
        )
        self._check_room((variables, optimizer, others))
        self._call_orbax("last", lambda manager: manager.save(step, args=args))

    def save_best(self, step: int, variables: dict[str, Any], score: float) -> None:
        """Write the weights, if `score` is the best so far. Raises UserError as `save_last` does."""
        self._make_ready("best")  # and with it the score of the one before is written
        self._finish_where_hosts_wait()
        best = self._managers["best"].best_step()
        if best is None or score > self._managers["best"].metrics(best)["score"]:
            args = ocp.args.Composite(variables=ocp.args.StandardSave(variables))
            self._check_room(variables)
            self._call_orbax(
                "best", lambda manager: manager.save(step, args=args, metrics={"score": float(score)})
            )

    def check(self) -> None:
        """Raise UserError where a checkpoint could not be written since the last call; takes no time.

        What was written of it is removed, and the checkpoints before are untouched: another may be tried.
        With several hosts it is OneHostFailed, after which training has to end.
        """
        for name, manager in self._managers.items():
            # Orbax keeps what it met until it is asked to wait
            if name in self._failed or not manager.is_saving_in_progress():
                self._finish(name)

    def finish(self) -> None:
        """Return when everything is on disk. Raises UserError as `check` does."""
        for name in self._managers:
            self._finish(name)

    def _finish(self, name: str) -> None:
        self._call_orbax(name, lambda manager: manager.wait_until_finished())

    def _make_ready(self, name: str) -> None:
        """End what is being written, and begin again where the folder is another one than it was.

        What failed before is made good by what is saved now. Raises OneHostFailed.
        """
        try:
            self._finish(name)
        except OneHostFailed:
            raise
        except UserError:
            pass
        if devices.as_first(self._root.is_dir() and not (self._root / name).is_dir()):
            self._begin_again(name)

    def _check_room(self, arrays: Any) -> None:
        """Raise UserError, on all hosts or on none, where arrays have no place to be written to."""

        def check() -> None:
            size, free = sum(x.nbytes for x in jax.tree.leaves(arrays)), _free(self._root)
            if size > free:
                raise UserError(
                    f"a checkpoint of {size / 1e9:.3g} GB does not fit into {self._root}, where "
                    f"{free / 1e9:.3g} GB are free; make room there"
                )

        devices.check_as_first(check, f"{self._root} has no room for a checkpoint on the first host")

    def _call_orbax(self, name: str, call: Callable[[ocp.CheckpointManager], Any]) -> None:
        """The call; where it fails, the fragments are removed and the reason is told."""
        try:
            call(self._managers[name])
        except Exception as error:  # of Orbax, TensorStore or the file system: each has its own class
            failure = f"a checkpoint could not be written to {self._root} ({first_line(error)})"
            remedy = "make room, or see to it that the folder is there and may be written"
            if jax.process_count() > 1:
                if comes_from_others(error):
                    raise
                raise OneHostFailed(f"{failure}; {remedy}") from None
            free = _free(self._root)
            with contextlib.suppress(Exception):  # the folder may go now; what is saved next sees to that
                self._begin_again(name)
            raise UserError(f"{failure}; {free / 1e9:.3g} GB are free there: {remedy}") from None

    def _begin_again(self, name: str) -> None:
        """After a failure: without fragments, and with a manager that knows only what is whole."""
        for fragment in _fragments_in(self._root / name):
            shutil.rmtree(fragment, ignore_errors=True)
        (self._root / name).mkdir(parents=True, exist_ok=True)
        self._managers[name] = self._manager(name)

    def _finish_where_hosts_wait(self) -> None:
        """Wait for what is being written, if there are several hosts.

        Their processes wait for one another while they write. With two checkpoints under way, one process may
        wait for the first of them and another process for the second.
        """
        if jax.process_count() > 1:
            self.finish()

    @staticmethod
    def exists(run: RunFolder) -> bool:
        """Whether a run's folder holds a checkpoint to go on from."""
        return Checkpoints.last_step(run) is not None

    @staticmethod
    def last_step(run: RunFolder) -> int | None:
        """Number of steps behind the last checkpoint in a run's folder, None if there is none."""
        return max(_steps(run.checkpoints / "last"), default=None)

    def drop_best_after(self, step: int) -> None:
        """Forget what scored best after `step`: those steps are made again."""
        best = self._managers["best"]
        for other in best.all_steps():
            if other > step:
                best.delete(other)

    def latest_step(self) -> int | None:
        """Number of steps behind the last checkpoint, None if there is none."""
        return self._managers["last"].latest_step()

    def restore_last(self, variables: dict[str, Any], optimizer: Any) -> tuple[Any, Any, Progress]:
        """The last checkpoint's (variables, optimizer, progress), on the devices of the arrays given.

        Raises UserError where it cannot be read.
        """
        restore = ocp.args.StandardRestore
        items = {"variables": restore(variables), "optimizer": restore(optimizer)}
        restored = self._restore_items(items | {"progress": ocp.args.JsonRestore()})
        return restored["variables"], restored["optimizer"], dict(restored["progress"])

    def restore_item(self, name: str, like: Any) -> Any:
        """One of the `others` of the last checkpoint, on the devices of `like`; None where it has none.

        Raises UserError where it cannot be read.
        """
        if not self._has(name):
            return None
        return self._restore_items({name: ocp.args.StandardRestore(like)})[name]

    def _has(self, item: str) -> bool:
        """Whether the last checkpoint has an item."""
        step = self.latest_step()
        return step is not None and (self._root / "last" / str(step) / item).is_dir()

    def _restore_items(self, items: dict[str, Any]) -> Any:
        """Items of the last checkpoint. Raises UserError."""
        step = self.latest_step()
        try:
            return self._managers["last"].restore(step, args=ocp.args.Composite(**items))
        except Exception as error:
            raise UserError(
                f"{self._root / 'last' / str(step)} cannot be read as a checkpoint of this network "
                f"({first_line(error)}); move it out of the run's folder, and the same command goes on from "
                "the one before"
            ) from None

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *error: object) -> None:
        """Return when everything is on disk, however training ended."""
        try:
            self.finish()
        finally:
            for manager in self._managers.values():
                manager.close()


def _free(root: pathlib.Path) -> int:
    """Bytes that are free in a folder. Raises UserError where it has been removed."""
    try:
        return shutil.disk_usage(root).free
    except OSError:
        raise UserError(f"{root} has been removed: a checkpoint cannot be written; make it again") from None


def set_corrupt_aside(run: RunFolder) -> Iterator[str]:
    """Move checkpoints that are not what was written to `checkpoints/corrupt`; a message for each.

    Of `last` the newest that is sound is looked for. All hosts call this, and the first one moves.

    Raises:
      UserError: no checkpoint is left of those that there were.
    """
    root, lost = run.checkpoints, []
    if jax.process_index() == 0:
        for name in ("last", "best"):
            for step in sorted(_steps(root / name), reverse=True):
                folder = root / name / str(step)
                problem = _damage(folder, _LAST_ITEMS if name == "last" else _LAST_ITEMS[:1])
                if problem is None:
                    break
                lost.append(f"{folder} {problem}; it is set aside as {_set_aside(folder, root / 'corrupt')}")
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("corrupt checkpoints are set aside")
    yield from lost
    if not Checkpoints.exists(run) and any((root / "corrupt").glob("last-*")):
        raise UserError(
            f"no checkpoint of {run} can be read; restore one from a copy into {root / 'last'}, or choose "
            "another --workdir to begin again"
        )


def _damage(folder: pathlib.Path, items: tuple[str, ...]) -> str | None:
    """What is wrong with the folder of a step, in words that follow its name; None if nothing is."""
    for item in items:
        if not (folder / item / "_METADATA").is_file():
            return f"is incomplete: it has no {item}"
    return checksums.damage(folder)


def _set_aside(folder: pathlib.Path, place: pathlib.Path) -> pathlib.Path:
    """Where the folder is moved to, a name of its own in `place`."""
    with explain_write_errors(place):
        place.mkdir(exist_ok=True)
        number = 1
        while (target := place / f"{folder.parent.name}-{folder.name}-{number}").exists():
            number += 1
        return folder.rename(target)


def _fragments_in(folder: pathlib.Path) -> list[pathlib.Path]:
    """What Orbax is writing, or has left, below `folder`."""
    return [path for path in folder.glob("*.orbax-checkpoint-tmp*") if path.is_dir()]


def load_variables(run: RunFolder, which: str, like: Any) -> tuple[Any, int | None]:
    """The network's variables from a run.

    Args:
      run: the folder of the run.
      which: "best", "last", or the folder of one checkpoint.
      like: `variables_like` of the network.

    Returns:
      The variables, and the number of steps behind them (None where the folder's name does not tell).

    Raises:
      UserError: there is no such checkpoint, or it is of another network.
    """
    root = step_folder(run, which)
    if root is None:
        raise UserError(
            f"{_checkpoint_folder(run, which)} holds no checkpoint; train first, or name a run with "
            "--workdir and one of its checkpoints with --checkpoint (best, last, or a folder)"
        )
    if root == run.path:
        return _load_shared(run, like)
    with ocp.StandardCheckpointer() as checkpointer:
        try:
            variables = checkpointer.restore(_variables_in(root), like)
        except Exception as error:  # of Orbax, TensorStore or the file system: each has its own class
            raise UserError(
                f"{root} is corrupt, or of another network than its config describes ({first_line(error)}); "
                "name another with --checkpoint (best, last, or a folder)"
            ) from None
    return variables, int(root.name) if root.name.isdigit() else None


def _load_shared(run: RunFolder, like: Any) -> tuple[Any, int | None]:
    """`load_variables` of a network that was shared."""
    arrays, step = weights_file.read(run.weights_file)
    flat = traverse_util.flatten_dict(arrays)
    wanted = traverse_util.flatten_dict(like)
    for name in sorted(wanted.keys() | flat.keys()):
        here, there = wanted.get(name), flat.get(name)
        if here is None or there is None or here.shape != there.shape:
            raise UserError(
                f"{run.weights_file} is of another network than its config describes: "
                f"{'/'.join(name)} is {'missing' if there is None else there.shape} and should be "
                f"{'missing' if here is None else here.shape}"
            )
    placed = {name: jax.device_put(flat[name].astype(x.dtype), x.sharding) for name, x in wanted.items()}
    return traverse_util.unflatten_dict(placed), step


def save_variables(folder: pathlib.Path, variables: dict[str, Any]) -> None:
    """Write variables alone, of whatever network, so that `folder` is a `step_folder`."""
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder.resolve() / "variables", variables)
    checksums.seal(folder)


def load_arrays(folder: pathlib.Path) -> Any:
    """All variables in a `step_folder`, of whatever network, as NumPy arrays.

    Raises UserError where a name leads out of the folder.
    """
    if (folder / weights_file.NAME).is_file():
        return weights_file.read(folder / weights_file.NAME)[0]
    variables = _variables_in(folder)
    check_names(variables)
    with ocp.PyTreeCheckpointer() as checkpointer:
        tree = checkpointer.metadata(variables).item_metadata.tree
        kinds = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        return checkpointer.restore(variables, ocp.args.PyTreeRestore(restore_args=kinds))


def step_folder(run: RunFolder, which: str) -> pathlib.Path | None:
    """The folder STEP of a checkpoint, chosen as by `load_variables`; None where there is none.

    Of several, the newest one that is sound; a message tells of those that are not. Raises UserError where
    none is. For a network that was shared it is the folder itself.
    """
    if run.is_shared and which in ("last", "best"):
        return run.path
    root = _checkpoint_folder(run, which)
    candidates = [root] if (root / "variables").is_dir() else []
    candidates += [root / str(step) for step in sorted(_steps(root), reverse=True)]
    for folder in candidates:
        problem = _damage(folder, _LAST_ITEMS[:1])
        if problem is None:
            return folder
        if folder == candidates[-1]:
            raise UserError(f"{folder} {problem}; name another with --checkpoint (best, last, or a folder)")
        say(f"warning: {folder} {problem}; the one before is taken")
    return None


def variables_like(model: nn.Module, mesh: Mesh) -> Any:
    """`jax.ShapeDtypeStruct`s of the network's variables, on every device of the mesh."""
    variables = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 64, 64, 3), "uint8"))
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=devices.replicated_sharding(mesh)),
        variables,
    )


def _variables_in(folder: pathlib.Path) -> pathlib.Path:
    """The folder of the variables of a checkpoint: the average, where one was kept."""
    average = folder / AVERAGE
    return average if average.is_dir() else folder / "variables"


def _checkpoint_folder(run: RunFolder, which: str) -> pathlib.Path:
    if which in ("best", "last"):
        return run.checkpoints.resolve() / which
    return pathlib.Path(which).expanduser().resolve()


def _steps(folder: pathlib.Path) -> list[int]:
    return [int(p.name) for p in folder.iterdir() if p.name.isdigit()] if folder.is_dir() else []
