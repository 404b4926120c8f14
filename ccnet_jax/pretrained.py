"""Weights for the backbone to start from: a PyTorch ResNet with a deep stem, or a run of ours."""

import importlib.util
import pathlib
import pickle
import re
from typing import Any

import jax
import numpy as np
import safetensors
import safetensors.numpy
from flax import traverse_util

from ccnet_jax import checkpoint
from ccnet_jax.errors import UserError
from ccnet_jax.models.resnet import BLOCKS

# Where the stem's three convolutions and their norms stand in the state dicts in use.
_STEMS = {
    # the CCNet authors and CSAIL
    "official": (("conv1", "conv2", "conv3"), ("bn1", "bn2", "bn3")),
    # open-mmlab's resnet50_v1c, and the backbone in checkpoints of mmsegmentation
    "mmseg": (("stem.0", "stem.3", "stem.6"), ("stem.1", "stem.4", "stem.7")),
    # timm's resnet50c and resnet50s
    "timm": (("conv1.0", "conv1.3", "conv1.6"), ("conv1.1", "conv1.4", "bn1")),
}
_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
_PREFIXES = ("", "module.", "backbone.", "module.backbone.")
# Parts of a checkpoint that are no backbone, and PyTorch's counters of batches.
_NOT_BACKBONE = re.compile(
    r"(module\.)?(backbone\.)?(fc|head|classifier|dsn|decode_head|auxiliary_head)\.|.*num_batches_tracked$"
)
_FITTING = "the CCNet authors' resnet101-imagenet, open-mmlab's resnet50_v1c or timm's resnet50c"


def check_path(path: str) -> None:
    """Raise UserError where `load_backbone` could not even begin to read `path`."""
    source = pathlib.Path(path).expanduser()
    if not source.exists():
        raise UserError(f"config.pretrained={path} does not exist; correct the path, or leave it None")
    if source.is_dir():
        _step_folder(source)
    elif source.suffix in (".pth", ".pt"):
        if importlib.util.find_spec("torch") is None:
            raise UserError(
                f"config.pretrained={path} is read with PyTorch, which is not here: pip install torch, or "
                "convert the file to .safetensors elsewhere"
            )
    elif source.suffix != ".safetensors":
        raise UserError(
            f"config.pretrained={path} is of no known kind; give a .safetensors, .pth or .pt file, or the "
            "folder of a run or of its checkpoint"
        )


def load_backbone(path: str, variables: Any) -> Any:
    """The variables with the backbone's parameters and batch statistics those in `path`; says so in one line.

    The weights must have been trained with pictures as `model.flavour` gives them to the network (channel
    order, mean and scale: nothing in a file tells) and with its stem's widths, 64-64-128 (official) or
    32-32-64 (mmseg), which is checked.

    Args:
      path: a .safetensors file; a .pth or .pt file, of which only tensors are read, no code is run; a run's
        folder (its last checkpoint) or a folder of one of its checkpoints. Names are understood in the
        CCNet authors', open-mmlab's and timm's way, with or without "module." and "backbone." before them,
        and inside a "state_dict" or "model".
      variables: {"params", "batch_stats"} of a CCNet; the result lies on the same devices.

    Raises:
      UserError: the file cannot be read, is of a ResNet of another depth, width or stem, or holds values
        that are not finite.
    """
    check_path(path)
    source = pathlib.Path(path).expanduser()
    wanted = traverse_util.flatten_dict({kind: tree["backbone"] for kind, tree in variables.items()})
    if source.is_dir():
        tensors, names = _run_tensors(source), {key: "/".join(_inside(key)) for key in wanted}
    else:
        tensors = _torch_tensors(source) if source.suffix != ".safetensors" else _safetensors(source)
        prefix, naming = _prefix_and_naming(tensors, source)
        names = {key: prefix + _torch_name(key, naming) for key in wanted}
    _check_depth(tensors, names, source)

    flat = traverse_util.flatten_dict(variables)
    for key, old in wanted.items():
        value = _value(tensors, names[key], old.shape, source)
        flat[_inside(key)] = _placed(value, old)
    unused = [name for name in set(tensors) - set(names.values()) if not _NOT_BACKBONE.match(name)]
    if jax.process_index() == 0:
        said = f"; not used: {', '.join(sorted(unused))}" if unused and not source.is_dir() else ""
        print(f"backbone from {path}: {len(names)} tensors{said}", flush=True)
    return traverse_util.unflatten_dict(flat)


def _inside(key: tuple[str, ...]) -> tuple[str, ...]:
    """("params", "stem_conv1", "kernel") -> ("params", "backbone", "stem_conv1", "kernel")."""
    return (key[0], "backbone", *key[1:])


def _torch_name(key: tuple[str, ...], naming: str) -> str:
    """("params", "layer1_0", "norm2", "scale") -> "layer1.0.bn2.weight"; in all namings but for the stem."""
    *modules, leaf = key[1:]
    if len(modules) == 1:
        kind, number = modules[0].removeprefix("stem_")[:-1], int(modules[0][-1])
        name = _STEMS[naming][kind == "norm"][number - 1]
    else:
        block, part = modules
        part = part.replace("downsample_conv", "downsample.0").replace("downsample_norm", "downsample.1")
        name = f"{block.replace('_', '.')}.{part.replace('norm', 'bn')}"
    return f"{name}.{_LEAVES[leaf]}"


def _prefix_and_naming(tensors: dict[str, np.ndarray], source: pathlib.Path) -> tuple[str, str]:
    """What stands before every name, and the key of `_STEMS`. Raises UserError where the stem is another."""
    for prefix in _PREFIXES:
        first = tensors.get(f"{prefix}conv1.weight")
        if first is not None and first.shape[2:] == (7, 7):
            raise UserError(
                f"{source} has a 7x7 stem ({prefix}conv1.weight is {_x(first.shape)}), this network a deep "
                f"one of three 3x3 convolutions; weights that fit are {_FITTING}"
            )
        if f"{prefix}layer1.0.downsample.2.weight" in tensors:
            raise UserError(
                f"{source} is of a ResNet-D, whose shortcuts pool ({prefix}layer1.0.downsample.2.weight), "
                f"which this network's do not; weights that fit are {_FITTING}"
            )
        for naming, (convs, _) in _STEMS.items():
            if any(f"{prefix}{conv}.weight" in tensors for conv in convs):
                return prefix, naming
    raise UserError(
        f"{source} holds no ResNet with a deep stem (no conv1.weight, stem.0.weight or conv1.0.weight); "
        f"weights that fit are {_FITTING}"
    )


def _check_depth(tensors: dict[str, np.ndarray], names: dict[Any, str], source: pathlib.Path) -> None:
    there, here = _depth(set(tensors)), _depth(set(names.values()))
    if there != here:
        raise UserError(
            f"{source} holds a {there}, the config asks for a {here}; set config.model.depth to that of the "
            "weights, or config.pretrained to weights of that depth"
        )


def _depth(names: set[str]) -> str:
    """ "ResNet-50" for example; its blocks, where it is none of `BLOCKS`."""
    found = {match.groups() for name in names if (match := re.search(r"layer(\d)[._](\d+)[./]", name))}
    blocks = tuple(sum(stage == str(i) for stage, _ in found) for i in (1, 2, 3, 4))
    bottleneck = any(re.search(r"layer1[._]0[./]conv3", name) for name in names)
    for depth, counts in BLOCKS.items():
        if (counts, depth >= 50) == (blocks, bottleneck):
            return f"ResNet-{depth}"
    kind = "bottleneck" if bottleneck else "basic"
    return f"ResNet of {', '.join(map(str, blocks))} {kind} blocks"


def _value(
    tensors: dict[str, np.ndarray], name: str, shape: tuple[int, ...], source: pathlib.Path
) -> np.ndarray:
    """The tensor as float32 of `shape`, ours. PyTorch's kernels are [out, in, h, w], ours [h, w, in, out]."""
    torch = "/" not in name
    needed = (*shape[:1:-1], *shape[:2]) if torch and len(shape) == 4 else tuple(shape)
    if name not in tensors:
        raise UserError(
            f"{source} has no {name} ({_x(needed)}), though other parts of this ResNet; take a complete file"
        )
    value = np.asarray(tensors[name]).astype(np.float32)
    if value.shape != needed:
        raise UserError(
            f"{name} in {source} is {_x(value.shape)} where this network needs {_x(needed)}; set "
            "config.model.flavour (the official stem is 64-64-128 wide, mmseg's 32-32-64) and width to the "
            "weights', or take others"
        )
    if not np.isfinite(value).all():
        raise UserError(
            f"{name} in {source} holds values that are not finite; take another copy, or other weights"
        )
    return value.transpose(2, 3, 1, 0) if torch and value.ndim == 4 else value


def _x(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a single number"


def _placed(value: np.ndarray, old: Any) -> Any:
    """`value` on the devices that hold `old`, of all processes."""
    if not isinstance(old, jax.Array):
        return value
    return jax.make_array_from_callback(old.shape, old.sharding, lambda index: value[index])


def _safetensors(source: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        return safetensors.numpy.load_file(source)
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(
            f"{source} cannot be read as .safetensors ({_first_line(error)}); fetch it again"
        ) from None


def _torch_tensors(source: pathlib.Path) -> dict[str, np.ndarray]:
    """The tensors of a state dict, also of one inside a dict of other things."""
    import torch  # nothing but these files needs PyTorch

    try:
        # with weights_only a pickle can make tensors and containers, and call nothing else
        read = torch.load(source, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(
            f"{source} is damaged or holds more than tensors, which would be code and is not run; save its "
            "state_dict alone, best as .safetensors"
        ) from None
    except (EOFError, OSError, RuntimeError) as error:
        raise UserError(f"{source} cannot be read ({_first_line(error)}); fetch it again") from None
    while isinstance(read, dict) and (inner := read.get("state_dict", read.get("model"))) is not None:
        read = inner
    tensors = read.items() if isinstance(read, dict) else ()
    return {name: value.detach().float().numpy() for name, value in tensors if torch.is_tensor(value)}


def _run_tensors(source: pathlib.Path) -> dict[str, np.ndarray]:
    """Every variable of a checkpoint of ours, {"params/backbone/stem_conv1/kernel": ...}."""
    return traverse_util.flatten_dict(checkpoint.load_arrays(_step_folder(source)), sep="/")


def _step_folder(source: pathlib.Path) -> pathlib.Path:
    """Of the run's last checkpoint, or of the checkpoint that `source` is. Raises UserError without one."""
    folder = checkpoint.step_folder(source, "last" if (source / "checkpoints").is_dir() else str(source))
    if folder is None:
        raise UserError(
            f"config.pretrained={source} is a folder without a checkpoint; give a run's folder or a file"
        )
    return folder


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["it is empty"])[0]
