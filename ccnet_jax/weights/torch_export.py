"""A run's weights as a state dict of its flavour's PyTorch network."""

import contextlib
import pathlib

from flax import traverse_util

from ccnet_jax.common.errors import UserError
from ccnet_jax.common.labels import Classes
from ccnet_jax.config import records
from ccnet_jax.config.config import Config
from ccnet_jax.engine import checkpoints
from ccnet_jax.engine.folder import RunFolder
from ccnet_jax.models.config import build_network
from ccnet_jax.models.flavours import FLAVOURS
from ccnet_jax.tasks import TASKS
from ccnet_jax.weights import tensor_files
from ccnet_jax.weights.checkpoint_meta import written_meta
from ccnet_jax.weights.naming import HEAD_NAMES, Naming
from ccnet_jax.weights.values import check_numbers, torch_tensors


def export_weights(
    run: RunFolder, out: pathlib.Path, checkpoint: str = "last", in_place: bool = False
) -> None:
    """Write a run's weights as PyTorch's, and print where.

    Args:
      run: the folder of the run.
      out: a .safetensors, .pth or .pt file to make.
      checkpoint: "last", "best", or the folder of one checkpoint.
      in_place: write weights for in-place ABN, whose scales are |weight| + 1e-5.

    Raises:
      UserError: there is no such run or checkpoint, PyTorch's code bases have no such network, a weight is
        not finite, or `out` cannot be made.
    """
    _check_out(out)
    config = records.load_config(run)
    _check_exportable(config, run, in_place)
    folder = checkpoints.step_folder(run, checkpoint)
    if folder is None:
        raise UserError(
            f"{run} holds no checkpoint {checkpoint}; choose another --checkpoint (last, best, or a folder)"
        )
    variables = traverse_util.flatten_dict(checkpoints.load_arrays(folder))
    for key, value in variables.items():
        check_numbers(value, "/".join(key), folder)
    naming = Naming.of_flavour(config.model.flavour, config.model.stem)
    tensors = torch_tensors(variables, naming, in_place, int(folder.name) if folder.name.isdigit() else 0)
    classes = _classes_of(run)
    network = build_network(config.model, 1 if classes is None else len(classes.names))
    nested = HEAD_NAMES[config.model.flavour].nested
    tensor_files.write(out, tensors, written_meta(network, classes), nested)

    print(f"{len(variables)} tensors and {len(tensors) - len(variables)} counters of {folder} in {out}")
    if FLAVOURS[config.model.flavour].in_place_norms and not in_place:
        print(
            "norms are plain batch norms; for the authors' in-place ABN, with |weight| + 1e-5, --inplace-abn"
        )


def _check_out(out: pathlib.Path) -> None:
    """Raise UserError where the file cannot be made."""
    if out.exists():
        raise UserError(f"--out {out} exists; choose a new file")
    if out.suffix not in tensor_files.SUFFIXES:
        raise UserError(f"--out {out} is of no known kind; end it in {', '.join(tensor_files.SUFFIXES)}")
    if tensor_files.needs_torch(out) and not tensor_files.has_torch():
        raise UserError(
            f"--out {out} is written with PyTorch, which is not installed; choose a .safetensors file"
        )


def _check_exportable(config: Config, run: RunFolder, in_place: bool) -> None:
    """Raise UserError where PyTorch's code bases have no such network."""
    model = config.model
    if not TASKS[config.task].labels_pixels:
        raise UserError(
            f"{run} has config.task={config.task!r}; only networks that label pixels can be written"
        )
    if model.context != "rcca":
        raise UserError(
            f"{run} has model.context={model.context}, for which PyTorch's CCNets have no names; only rcca "
            "can be written"
        )
    if model.backbone != "resnet":
        raise UserError(
            f"{run} has model.backbone={model.backbone}, for which PyTorch's CCNets have no names; only "
            "resnet can be written"
        )
    if in_place and not FLAVOURS[model.flavour].in_place_norms:
        raise UserError(
            f"{run} is of the {model.flavour} flavour, whose norms are never in-place ABN; omit --inplace-abn"
        )


def _classes_of(run: RunFolder) -> Classes | None:
    """The classes of the run; None where its classes.json is gone."""
    with contextlib.suppress(UserError):
        return records.load_classes(run)
    return None
