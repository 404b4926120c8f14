"""Weights for the backbone to start from: a PyTorch ResNet, or a run of ours."""

import pathlib
import re
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from ccnet_jax.errors import UserError
from ccnet_jax.run import checkpoints
from ccnet_jax.weights import torch_weights
from ccnet_jax.weights.torch_weights import Key, Naming

# Parts of a checkpoint that are no backbone.
_NOT_BACKBONE = re.compile(r"(module\.)?(backbone\.)?(fc|head|classifier|dsn|decode_head|auxiliary_head)\.")
_REMEDY = (
    "set config.model.flavour (the official stem is 64-64-128 wide, mmseg's 32-32-64) and width to the "
    "weights', or take others"
)


def check_path(path: str) -> None:
    """Raise UserError where `load_backbone` could not even begin to read `path`."""
    source = pathlib.Path(path).expanduser()
    if source.is_dir():
        _step_folder(source)
    elif reason := torch_weights.unreadable(source):
        raise UserError(f"config.pretrained={path} {reason}")


def load_backbone(path: str, variables: Any) -> Any:
    """The variables with the backbone's parameters and batch statistics those in `path`; says so in one line.

    The weights must have been trained with pictures as `model.flavour` gives them to the network (channel
    order, mean and scale: nothing in a file tells; those of torchvision, timm and open-mmlab are mmseg's)
    and with its stem, which is checked: 64-64-128 (official) or 32-32-64 (mmseg) wide, or with
    `model.stem="7x7"` torchvision's.

    Args:
      path: a .safetensors file; a .pth or .pt file, of which only tensors are read, no code is run; a run's
        folder (its last checkpoint) or a folder of one of its checkpoints. Names are understood in the
        CCNet authors', open-mmlab's, timm's and torchvision's way, with or without "module." and
        "backbone." before them, and inside a "state_dict" or "model".
      variables: {"params", "batch_stats"} of a CCNet; the result lies on the same devices.

    Raises:
      UserError: the file cannot be read, is of a ResNet of another depth, width or stem, or holds values
        that are not finite.
    """
    check_path(path)
    source = pathlib.Path(path).expanduser()
    flat = traverse_util.flatten_dict(variables)
    wanted = {key: tuple(old.shape) for key, old in flat.items() if key[1] == "backbone"}
    if source.is_dir():
        values, unused = _from_run(source, wanted), []
    else:
        values, unused = _from_file(source, wanted)
    for key, value in values.items():
        flat[key] = _placed(value, flat[key])
    if jax.process_index() == 0:
        said = f"; not used: {', '.join(unused)}" if unused else ""
        print(f"backbone from {path}: {len(values)} tensors{said}", flush=True)
    return traverse_util.unflatten_dict(flat)


def _from_file(source: pathlib.Path, wanted: dict[Key, tuple]) -> tuple[dict[Key, np.ndarray], list[str]]:
    """The wanted variables from PyTorch's weights, and the names of what should not be left over."""
    tensors, _ = torch_weights.read(source)
    naming = torch_weights.naming_of(tensors, source)
    _check_stem(tensors, naming, wanted, source)
    names = {naming.name(key) for key in wanted}
    _check_depth(tensors, names, source)
    values = {
        key: torch_weights.from_torch(tensors, key, shape, naming, source, _REMEDY)
        for key, shape in wanted.items()
    }
    if torch_weights.has_in_place_norms(tensors, naming):
        values = torch_weights.with_in_place_scales(values)
    unused = {name for name in set(tensors) - names if not torch_weights.is_counter(name)}
    return values, sorted(name for name in unused if not _NOT_BACKBONE.match(name))


def _from_run(source: pathlib.Path, wanted: dict[Key, tuple]) -> dict[Key, np.ndarray]:
    """The wanted variables from a checkpoint of ours."""
    there = traverse_util.flatten_dict(checkpoints.load_arrays(_step_folder(source)), sep="/")
    names = {key: "/".join(key) for key in wanted}
    _check_depth(there, names.values(), source)
    for name in names.values():
        if name not in there:
            raise UserError(f"{source} has no {name}; set config.model.stem to that of the weights")
    return {
        key: torch_weights.checked(there[names[key]], names[key], shape, source, _REMEDY)
        for key, shape in wanted.items()
    }


def _check_stem(
    tensors: dict[str, np.ndarray], naming: Naming, wanted: dict[Key, tuple], source: pathlib.Path
) -> None:
    """Raise UserError where one stem is 7x7 and the other deep."""
    there = naming.stem == "torchvision"
    here = ("params", "backbone", "stem_conv2", "kernel") not in wanted
    if there and not here:
        name = f"{naming.prefix}{naming.backbone}conv1.weight"
        raise UserError(
            f"{source} has a 7x7 stem ({name} is {torch_weights.sides(tensors[name].shape)}), this network a "
            'deep one of three 3x3 convolutions; set config.model.stem="7x7", or take weights that fit, as '
            "open-mmlab's resnet50_v1c or timm's resnet50c"
        )
    if here and not there:
        raise UserError(
            f"{source} has a deep stem of three 3x3 convolutions, this network a 7x7 one; set "
            'config.model.stem="deep", or take weights that fit, as torchvision\'s resnet50'
        )


def _check_depth(there: Any, here: Any, source: pathlib.Path) -> None:
    title, wanted = torch_weights.resnet_title(there), torch_weights.resnet_title(here)
    if title != wanted:
        raise UserError(
            f"{source} holds a {title}, the config asks for a {wanted}; set config.model.depth to that of "
            "the weights, or config.pretrained to weights of that depth"
        )


def _placed(value: np.ndarray, old: Any) -> Any:
    """`value` on the devices that hold `old`, of all processes."""
    if not isinstance(old, jax.Array):
        return value
    return jax.make_array_from_callback(old.shape, old.sharding, lambda index: value[index])


def _step_folder(source: pathlib.Path) -> pathlib.Path:
    """Of the run's last checkpoint, or of the checkpoint that `source` is. Raises UserError without one."""
    folder = checkpoints.step_folder(source, "last" if (source / "checkpoints").is_dir() else str(source))
    if folder is None:
        raise UserError(
            f"config.pretrained={source} is a folder without a checkpoint; give a run's folder or a file"
        )
    return folder
