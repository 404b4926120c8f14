"""Weights for the backbone to start from: a PyTorch ResNet, or a run of ours."""

import pathlib
import re
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from ccnet_jax.common.errors import UserError
from ccnet_jax.common.log import say
from ccnet_jax.config.config import Config
from ccnet_jax.engine import checkpoints, hub, weights_file
from ccnet_jax.engine.folder import RunFolder
from ccnet_jax.models.config import ModelConfig
from ccnet_jax.models.variables import Variables
from ccnet_jax.tasks.messages import random_weights_warnings
from ccnet_jax.tasks.task import Task
from ccnet_jax.training.step import State
from ccnet_jax.weights import tensor_files, values
from ccnet_jax.weights.naming import Key, Naming, StateDict, is_counter, naming_of
from ccnet_jax.weights.resnet_depth import depth_of, resnet_title

Shapes = dict[Key, tuple[int, ...]]
# Parts of a checkpoint that belong to no backbone.
_NOT_BACKBONE = re.compile(r"(module\.)?(backbone\.)?(fc|head|classifier|dsn|decode_head|auxiliary_head)\.")
_REMEDY = (
    "set config.model.flavour (the official stem is 64-64-128 wide, mmseg's 32-32-64) and config.model.width "
    "to those of the weights, or take other weights"
)


# Weights from ImageNet on the hub, as timm gives them away, by flavour (they expect images as it normalises
# them), stem and depth.
IMAGENET = {
    ("mmseg", "deep", 50): "hf:timm/resnet50c.gluon_in1k",
    ("mmseg", "deep", 101): "hf:timm/resnet101c.gluon_in1k",
    **{("mmseg", "7x7", depth): f"hf:timm/resnet{depth}.tv_in1k" for depth in (18, 34, 50, 101, 152)},
}


def locate(name: str, model: ModelConfig) -> str:
    """What `config.pretrained` names, as the path of a file or folder here; it is fetched if need be.

    Args:
      name: a path, "imagenet", hf:ORG/NAME[@REVISION], or the https address of a .safetensors file.
      model: that begins with it.

    Raises:
      UserError: there is none for such a network, or it cannot be fetched.
    """
    if name == "imagenet":
        found = IMAGENET.get((model.flavour, model.stem, model.depth))
        if found is None:
            known = ", ".join("{} {} {}".format(*key) for key in IMAGENET)
            raise UserError(
                f"config.pretrained=imagenet has weights for model.flavour, stem and depth {known}, not for "
                f"{model.flavour} {model.stem} {model.depth}; choose one of these, or name a file"
            )
        name = found
    if hub.is_name(name):
        return str(hub.fetch(name) / weights_file.NAME)
    return str(hub.fetched_file(name)) if hub.is_file_address(name) else name


def check_path(path: str) -> None:
    """Raise UserError where `load_backbone` could not even begin to read `path`."""
    source = _source(path)
    if source.is_dir():
        _step_folder(source)
    else:
        tensor_files.check_readable(source, f"config.pretrained={path}")


def _source(path: str) -> pathlib.Path:
    """The file or the folder; of a network that was shared, its file."""
    source = pathlib.Path(path).expanduser()
    run = RunFolder(source)
    return run.weights_file if run.is_shared else source


def load_backbone(path: str, variables: Variables) -> dict[str, Any]:
    """The variables, with the backbone's parameters and batch statistics replaced by those in `path`.

    Prints one line that says so. The weights must have been trained on images as `config.model.flavour`
    normalises them (order of the colours, mean and scale). No file says how its images were normalised;
    the weights of torchvision, timm and open-mmlab expect those of mmseg. Their stem must be that of the
    network, which is checked: three convolutions 64-64-128 (official) or 32-32-64 (mmseg) wide, or
    torchvision's with `config.model.stem="7x7"`.

    Args:
      path: a .safetensors file; a .pth or .pt file, of which only tensors are read and no code is run; a
        run's folder (its last checkpoint), the folder of one of its checkpoints, or that of a network that
        was shared. Names are understood as
        the CCNet authors, open-mmlab, timm and torchvision write them, with or without "module." and
        "backbone." before them, and inside a "state_dict" or "model".
      variables: {"params", "batch_stats"} of a CCNet; the result lies on the same devices.

    Raises:
      UserError: the file cannot be read, holds a ResNet of another depth, width or stem, or values that are
        not finite.
    """
    check_path(path)
    source = _source(path)
    ours = source.is_dir() or weights_file.is_ours(source)
    flat = traverse_util.flatten_dict(variables)
    shapes = {key: tuple(value.shape) for key, value in flat.items() if key[1] == "backbone"}
    loaded, unused = _from_run(source, shapes) if ours else _from_file(source, shapes)
    for key, value in loaded.items():
        flat[key] = _place_like(value, flat[key])
    not_used = f"; not used: {', '.join(unused)}" if unused else ""
    say(f"backbone from {path}: {len(loaded)} tensors{not_used}")
    return traverse_util.unflatten_dict(flat)


def _from_file(source: pathlib.Path, shapes: Shapes) -> tuple[dict[Key, np.ndarray], list[str]]:
    """The backbone's variables from PyTorch's weights, and the names of further tensors of a backbone."""
    if depth_of("/".join(key) for key in shapes) is None:
        raise UserError(
            f"{source} holds PyTorch's weights, which are understood for config.model.backbone=resnet only; "
            "give config.pretrained the folder of a run, or leave it None"
        )
    tensors = tensor_files.read(source).tensors
    naming = naming_of(tensors, source)
    _check_stem(tensors, naming, shapes, source)
    names = {naming.name(key) for key in shapes}
    _check_depth(tensors, names, source)
    loaded = {
        key: values.from_torch(tensors, key, shape, naming, source, _REMEDY) for key, shape in shapes.items()
    }
    if values.has_in_place_norms(tensors, naming):
        loaded = values.with_in_place_scales(loaded)
    unused = [name for name in sorted(set(tensors) - names) if not is_counter(name)]
    return loaded, [name for name in unused if not _NOT_BACKBONE.match(name)]


def _from_run(source: pathlib.Path, shapes: Shapes) -> tuple[dict[Key, np.ndarray], list[str]]:
    """The backbone's variables from a checkpoint of ours, or a shared network, all of which are used."""
    arrays = (
        checkpoints.load_arrays(_step_folder(source)) if source.is_dir() else weights_file.read(source)[0]
    )
    saved = traverse_util.flatten_dict(arrays, sep="/")
    names = {key: "/".join(key) for key in shapes}
    _check_depth(saved, names.values(), source)
    for name in names.values():
        if name not in saved:
            raise UserError(
                f"{source} has no {name}; set config.model.stem and config.model.backbone to "
                "those of the weights"
            )
    loaded = {
        key: values.check_value(saved[names[key]], names[key], shape, source, _REMEDY)
        for key, shape in shapes.items()
    }
    return loaded, []


def _check_stem(tensors: StateDict, naming: Naming, shapes: Shapes, source: pathlib.Path) -> None:
    """Raise UserError where one stem is 7x7 and the other deep."""
    has_deep = len(naming.stem_names.convs) > 1
    wants_deep = ("params", "backbone", "stem_conv2", "kernel") in shapes
    if wants_deep and not has_deep:
        name = naming.backbone_name("conv1.weight")
        raise UserError(
            f"{source} has a 7x7 stem ({name} is {values.sides(tensors[name].shape)}), this network a deep "
            'one of three 3x3 convolutions; set config.model.stem="7x7", or take weights that fit, for '
            "example open-mmlab's resnet50_v1c or timm's resnet50c"
        )
    if has_deep and not wants_deep:
        raise UserError(
            f"{source} has a deep stem of three 3x3 convolutions, this network a 7x7 one; set "
            'config.model.stem="deep", or take weights that fit, for example torchvision\'s resnet50'
        )


def _check_depth(found: Iterable[str], wanted: Iterable[str], source: pathlib.Path) -> None:
    """Raise UserError where the names found are those of another ResNet than the names wanted."""
    found_title, wanted_title = resnet_title(found), resnet_title(wanted)
    if found_title != wanted_title:
        raise UserError(
            f"{source} holds a {found_title}, the config asks for a {wanted_title}; set config.model.depth "
            "to that of the weights, or config.pretrained to weights of that depth"
        )


def _place_like(value: np.ndarray, like: jax.Array | np.ndarray) -> jax.Array | np.ndarray:
    """`value` on the devices that hold `like`, of all processes."""
    if not isinstance(like, jax.Array):
        return value
    return jax.make_array_from_callback(like.shape, like.sharding, lambda index: value[index])


def _step_folder(source: pathlib.Path) -> pathlib.Path:
    """The run's last checkpoint, or the checkpoint that `source` is. Raises UserError where there is none."""
    run = RunFolder.at(source)
    folder = checkpoints.step_folder(run, "last" if run.checkpoints.is_dir() else str(source))
    if folder is None:
        raise UserError(
            f"config.pretrained={source} is a folder without a checkpoint; give a run's folder or a file"
        )
    return folder


def weights_for(config: Config, run: RunFolder) -> Any:
    """Where the weights are with which a new run begins; None where they are random, and for an old run.

    Raises UserError where there are none.
    """
    if not config.pretrained or checkpoints.Checkpoints.exists(run):
        return None
    source = locate(config.pretrained, config.model)
    check_path(source)
    return source


def begun(config: Config, task: Task, weights: Any, state: State) -> State:
    """The state with which a new run begins: random, or with the backbone's `weights`."""
    if weights is not None:
        return State(state.step, load_backbone(weights, state.variables), state.optimizer)
    for line in random_weights_warnings(config, task):
        say(line)
    return state
