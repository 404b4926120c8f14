"""Checkpoints of a run, by Orbax: `last`, everything to go on with, and `best`, the weights alone.

A checkpoint is written under a temporary name and renamed when it is whole, so that a process
killed at any moment leaves the one before.
"""

import pathlib
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import Mesh

from ccnet_jax import devices
from ccnet_jax.errors import UserError
from ccnet_jax.models.variables import Variables
from ccnet_jax.run.checkpoint_names import check_names
from ccnet_jax.run.folder import RunFolder


class Checkpoints:
    """The folder `checkpoints/` of a run: `{last,best}/STEP/variables` and `last/STEP/optimizer`.

    Args:
      run: the folder of the run.
    """

    def __init__(self, run: RunFolder):
        root = run.checkpoints.resolve()
        options = {"max_to_keep": 1, "cleanup_tmp_directories": True}
        self._last = ocp.CheckpointManager(root / "last", options=ocp.CheckpointManagerOptions(**options))
        self._best = ocp.CheckpointManager(
            root / "best",
            options=ocp.CheckpointManagerOptions(**options, best_fn=_score),
        )

    def save_last(self, step: int, variables: Variables, optimizer: Any) -> None:
        """Write everything, while training goes on. `step` is the number of updates so far."""
        if step != self._last.latest_step():
            self._finish_where_hosts_wait()
            save = ocp.args.StandardSave
            self._last.save(
                step, args=ocp.args.Composite(variables=save(variables), optimizer=save(optimizer))
            )

    def save_best(self, step: int, variables: Variables, score: float) -> None:
        """Write the weights, if `score` is the best so far."""
        self._best.wait_until_finished()  # the score of the one before is written last
        self._finish_where_hosts_wait()
        best = self._best.best_step()
        if best is None or score > _score(self._best.metrics(best)):
            self._best.save(
                step,
                args=ocp.args.Composite(variables=ocp.args.StandardSave(variables)),
                metrics={"score": float(score)},
            )

    def _finish_where_hosts_wait(self) -> None:
        """Wait for what is being written, if there are several hosts.

        Their processes wait for one another while they write. With two checkpoints under way, one process may
        wait for the first of them and another process for the second.
        """
        if jax.process_count() > 1:
            self._last.wait_until_finished()
            self._best.wait_until_finished()

    @staticmethod
    def exists(run: RunFolder) -> bool:
        """Whether a run's folder holds a checkpoint to go on from."""
        return Checkpoints.last_step(run) is not None

    @staticmethod
    def last_step(run: RunFolder) -> int | None:
        """Number of updates behind the last checkpoint in a run's folder, None if there is none."""
        return max(_steps(run.checkpoints / "last"), default=None)

    def drop_best_after(self, step: int) -> None:
        """Forget what scored best after `step`: those updates are made again."""
        for other in self._best.all_steps():
            if other > step:
                self._best.delete(other)

    def latest_step(self) -> int | None:
        """Number of updates behind the last checkpoint, None if there is none."""
        return self._last.latest_step()

    def restore_last(self, variables: Variables, optimizer: Any) -> tuple[Any, Any]:
        """The last checkpoint's (variables, optimizer), on the devices of the arrays given."""
        restore = ocp.args.StandardRestore
        restored = self._last.restore(
            self._last.latest_step(),
            args=ocp.args.Composite(variables=restore(variables), optimizer=restore(optimizer)),
        )
        return restored.variables, restored.optimizer

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *error: object) -> None:
        """Return when everything is on disk, however training ended."""
        self._last.close()
        self._best.close()


def _score(metrics: Any) -> float:
    """What a checkpoint scored; up to version 0.1 it was noted as "mIoU"."""
    return metrics["score"] if "score" in metrics else metrics["mIoU"]


def load_variables(run: RunFolder, which: str, like: Any) -> tuple[Any, int | None]:
    """The network's variables from a run.

    Args:
      run: the folder of the run.
      which: "best", "last", or the folder of one checkpoint.
      like: `variables_like` of the network.

    Returns:
      The variables, and the number of updates behind them (None where the folder's name does not tell).

    Raises:
      UserError: there is no such checkpoint, or it is of another network.
    """
    root = step_folder(run, which)
    if root is None:
        raise UserError(
            f"{_checkpoint_folder(run, which)} holds no checkpoint; train first, or name a run with "
            "--workdir and one of its checkpoints with --checkpoint (best, last, or a folder)"
        )
    with ocp.StandardCheckpointer() as checkpointer:
        try:
            variables = checkpointer.restore(root / "variables", like)
        except (ValueError, KeyError) as error:
            first = str(error).strip().splitlines()[0]
            raise UserError(
                f"{root} is a checkpoint of another network than its config describes: {first}"
            ) from None
    return variables, int(root.name) if root.name.isdigit() else None


def save_variables(folder: pathlib.Path, variables: Variables) -> None:
    """Write variables alone, of whatever network, so that `folder` is a `step_folder`."""
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder.resolve() / "variables", variables)


def load_arrays(folder: pathlib.Path) -> Any:
    """All variables in a `step_folder`, of whatever network, as NumPy arrays.

    Raises UserError where a name leads out of the folder.
    """
    check_names(folder / "variables")
    with ocp.PyTreeCheckpointer() as checkpointer:
        tree = checkpointer.metadata(folder / "variables").item_metadata.tree
        kinds = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        return checkpointer.restore(folder / "variables", ocp.args.PyTreeRestore(restore_args=kinds))


def step_folder(run: RunFolder, which: str) -> pathlib.Path | None:
    """The folder STEP of a checkpoint, chosen as by `load_variables`; None where there is none."""
    root = _checkpoint_folder(run, which)
    for candidate in (root, root / str(max(_steps(root), default=0))):
        if (candidate / "variables").is_dir():
            return candidate
    return None


def variables_like(model: nn.Module, mesh: Mesh) -> Any:
    """`jax.ShapeDtypeStruct`s of the network's variables, on every device of the mesh."""
    variables = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 64, 64, 3), "uint8"))
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=devices.replicated(mesh)), variables
    )


def _checkpoint_folder(run: RunFolder, which: str) -> pathlib.Path:
    if which in ("best", "last"):
        return run.checkpoints.resolve() / which
    return pathlib.Path(which).expanduser().resolve()


def _steps(folder: pathlib.Path) -> list[int]:
    return [int(p.name) for p in folder.iterdir() if p.name.isdigit()] if folder.is_dir() else []
