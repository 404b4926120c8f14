"""PyTorch's files of weights, and what the parts of a CCNet are called and shaped in them."""

import collections
import dataclasses
import importlib.util
import json
import pathlib
import pickle
import re
import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from ccnet_jax.errors import UserError
from ccnet_jax.models.backbones.resnet import BLOCKS

# Where the stem's convolutions and their norms stand in the state dicts in use.
STEMS = {
    # the CCNet authors and CSAIL
    "official": (("conv1", "conv2", "conv3"), ("bn1", "bn2", "bn3")),
    # open-mmlab's resnet50_v1c, and the backbone in checkpoints of mmsegmentation
    "mmseg": (("stem.0", "stem.3", "stem.6"), ("stem.1", "stem.4", "stem.7")),
    # timm's resnet50c and resnet50s
    "timm": (("conv1.0", "conv1.3", "conv1.6"), ("conv1.1", "conv1.4", "bn1")),
    # the 7x7 stem, of torchvision, timm and open-mmlab alike
    "torchvision": (("conv1",), ("bn1",)),
}
# The modules of ours around the backbone.
_ATTENTION = "head/context/rcca/attention"
HEADS = {
    "official": {
        "head/before/conv": "head.conva.0",
        "head/before/norm": "head.conva.1",
        _ATTENTION: "head.cca",
        "head/after/conv": "head.convb.0",
        "head/after/norm": "head.convb.1",
        "head/fuse/conv": "head.bottleneck.0",
        "head/fuse/norm": "head.bottleneck.1",
        "head/classifier": "head.bottleneck.3",
        "auxiliary_head/conv/conv": "dsn.0",
        "auxiliary_head/conv/norm": "dsn.1",
        "auxiliary_head/classifier": "dsn.3",
    },
    "mmseg": {
        "head/before/conv": "decode_head.convs.0.conv",
        "head/before/norm": "decode_head.convs.0.bn",
        _ATTENTION: "decode_head.cca",
        "head/after/conv": "decode_head.convs.1.conv",
        "head/after/norm": "decode_head.convs.1.bn",
        "head/fuse/conv": "decode_head.conv_cat.conv",
        "head/fuse/norm": "decode_head.conv_cat.bn",
        "head/classifier": "decode_head.conv_seg",
        "auxiliary_head/conv/conv": "auxiliary_head.convs.0.conv",
        "auxiliary_head/conv/norm": "auxiliary_head.convs.0.bn",
        "auxiliary_head/classifier": "auxiliary_head.conv_seg",
    },
}
_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
COUNTER = "num_batches_tracked"  # of a norm; PyTorch counts batches in it and reads it nowhere
_PREFIXES = ("", "module.", "backbone.", "module.backbone.")
_EPSILON = np.float32(1e-5)  # in-place ABN's
_FITTING = (
    "the CCNet authors' resnet101-imagenet, open-mmlab's resnet50_v1c, timm's resnet50c and torchvision's "
    "resnet50"
)

Key = tuple[str, ...]  # ("params", "backbone", "layer1_0", "norm2", "scale")


# ------------------------------------------------------------------------------------------------- names
@dataclasses.dataclass(frozen=True)
class Naming:
    """How a state dict calls the parts of a CCNet.

    Attributes:
      prefix: before every name: "" or "module.".
      backbone: after it, before the names of the ResNet: "" or "backbone.".
      stem: a key of `STEMS`.
      heads: a key of `HEADS`, None where there is only a backbone.
    """

    prefix: str
    backbone: str
    stem: str
    heads: str | None

    def name(self, key: Key) -> str:
        """The name of one of our variables in the state dict."""
        inside = self._backbone_module(key[2:-1]) if key[1] == "backbone" else self._head_module(key[1:-1])
        if key[-1] == "gamma":
            return self.prefix + inside + (".gamma" if self.heads == "official" else ".gamma.scale")
        return f"{self.prefix}{inside}.{_LEAVES[key[-1]]}"

    def _backbone_module(self, modules: Key) -> str:
        if len(modules) == 1:  # stem_conv1
            kind, number = modules[0].removeprefix("stem_")[:-1], int(modules[0][-1])
            return self.backbone + STEMS[self.stem][kind == "norm"][number - 1]
        block, part = modules
        part = part.replace("downsample_conv", "downsample.0").replace("downsample_norm", "downsample.1")
        return f"{self.backbone}{block.replace('_', '.')}.{part.replace('norm', 'bn')}"

    def _head_module(self, modules: Key) -> str:
        path = "/".join(modules)
        if path.startswith(_ATTENTION + "/"):  # its query, key and value
            return f"{HEADS[self.heads][_ATTENTION]}.{modules[-1]}_conv"
        return HEADS[self.heads][path]

    def torch_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Of a tensor that is `shape` here."""
        match len(shape):
            case 0:  # gamma
                return (1,) if self.heads == "official" else ()
            case 2:  # a 1x1 convolution
                return (shape[1], shape[0], 1, 1)
            case 4:
                return (shape[3], shape[2], *shape[:2])
        return tuple(shape)


def naming_of(tensors: dict[str, Any], source: pathlib.Path) -> Naming:
    """How the state dict read from `source` calls its parts. Raises UserError without a ResNet that fits."""
    for before in _PREFIXES:
        if not any(name.startswith(f"{before}layer1.0.") for name in tensors):
            continue
        if f"{before}layer1.0.downsample.2.weight" in tensors:
            raise UserError(
                f"{source} is of a ResNet-D, whose shortcuts pool ({before}layer1.0.downsample.2.weight), "
                f"which this network's do not; weights that fit are {_FITTING}"
            )
        prefix = "module." * before.startswith("module.")
        heads = (kind for kind in HEADS if any(name.startswith(prefix + _cca(kind)) for name in tensors))
        if stem := _stem(tensors, before):
            return Naming(prefix, before.removeprefix(prefix), stem, next(heads, None))
    raise UserError(
        f"{source} holds no ResNet with a deep stem or torchvision's (no conv1.weight, stem.0.weight or "
        f"conv1.0.weight beside a layer1.0); weights that fit are {_FITTING}"
    )


def _cca(heads: str) -> str:
    return HEADS[heads][_ATTENTION] + "."


def _stem(tensors: dict[str, Any], before: str) -> str | None:
    first = tensors.get(f"{before}conv1.weight")
    if first is not None and first.shape[2:] == (7, 7):
        return "torchvision"
    for stem, (convs, _) in STEMS.items():
        if any(f"{before}{conv}.weight" in tensors for conv in convs):
            return stem
    return None


def depth_of(names: Iterable[str]) -> int | None:
    """The ResNet's depth by the blocks that are named, ours or PyTorch's way; None if not in `BLOCKS`."""
    found = _blocks(names)
    for depth, counts in BLOCKS.items():
        if (counts, depth >= 50) == found:
            return depth
    return None


def resnet_title(names: Iterable[str]) -> str:
    """ "ResNet-50" for example; its blocks, where it is none of `BLOCKS`."""
    names = set(names)
    if (depth := depth_of(names)) is not None:
        return f"ResNet-{depth}"
    counts, bottleneck = _blocks(names)
    kind = "bottleneck" if bottleneck else "basic"
    return f"ResNet of {', '.join(map(str, counts))} {kind} blocks"


def _blocks(names: Iterable[str]) -> tuple[tuple[int, ...], bool]:
    """Blocks in each stage, and whether they are bottlenecks."""
    names = set(names)
    found = {match.groups() for name in names if (match := re.search(r"layer(\d)[._](\d+)[./]", name))}
    bottleneck = any(re.search(r"layer1[._]0[./]conv3", name) for name in names)
    return tuple(sum(stage == str(i) for stage, _ in found) for i in (1, 2, 3, 4)), bottleneck


# ------------------------------------------------------------------------------------------------ values
def from_torch(
    tensors: dict[str, Any], key: Key, shape: tuple[int, ...], naming: Naming, source: object, remedy: str
) -> np.ndarray:
    """Variable `key` of ours, float32 of `shape`, from a state dict.

    Raises UserError, naming the key and with the `remedy` where the shape is another's, if it is missing,
    of another shape or not finite.
    """
    name, needed = naming.name(key), naming.torch_shape(shape)
    if name not in tensors:
        raise UserError(
            f"{source} has no {name} ({sides(needed)}), though other parts of this network; take a complete "
            "file"
        )
    value = checked(np.asarray(tensors[name]), name, needed, source, remedy)
    match len(shape):
        case 0:
            return value.reshape(())
        case 2:
            return np.array(value[:, :, 0, 0].T, order="C")
        case 4:
            return np.array(value.transpose(2, 3, 1, 0), order="C")
    return value


def to_torch(value: np.ndarray, naming: Naming) -> np.ndarray:
    """The reverse: a variable of ours as PyTorch has it."""
    value = np.asarray(value)
    needed = naming.torch_shape(value.shape)
    match value.ndim:
        case 2:
            value = value.T
        case 4:
            value = value.transpose(3, 2, 0, 1)
    return np.array(value.reshape(needed), order="C")


def checked(value: np.ndarray, name: str, needed: tuple[int, ...], source: object, remedy: str) -> np.ndarray:
    """`value` as float32. Raises UserError if it is of another shape than `needed`, or not finite."""
    if value.shape != needed and {value.shape, needed} != {(), (1,)}:
        swapped = value.ndim == len(needed) and sorted(value.shape) == sorted(needed)
        raise UserError(
            f"{name} in {source} is {sides(value.shape)} where this network needs {sides(needed)}"
            f"{', as if transposed' * swapped}; {remedy}"
        )
    if not np.issubdtype(value.dtype, np.floating) and value.dtype.name != "bfloat16":
        raise UserError(f"{name} in {source} holds {value.dtype}, not floating numbers; take another copy")
    value = value.astype(np.float32)
    if not np.isfinite(value).all():
        raise UserError(
            f"{name} in {source} holds values that are not finite; take another copy, or other weights"
        )
    return value


def sides(shape: tuple[int, ...]) -> str:
    """ "64x3x7x7"."""
    return "x".join(map(str, shape)) or "a single number"


def is_counter(name: str) -> bool:
    """Whether a name is that of a norm's counter of batches."""
    return name.endswith(COUNTER)


def has_in_place_norms(tensors: dict[str, Any], naming: Naming) -> bool:
    """Whether norms are in-place ABN, whose scale is |weight| + 1e-5, as in the CCNet authors' networks.

    Their in-place ABN keeps no counters of batches, which PyTorch's own batch norm does.
    """
    return naming.heads == "official" and not any(map(is_counter, tensors))


def in_place_scale(weight: np.ndarray) -> np.ndarray:
    """What in-place ABN multiplies with: |weight| + 1e-5 in float32."""
    return np.abs(weight) + _EPSILON


def with_in_place_scales(values: dict[Key, np.ndarray]) -> dict[Key, np.ndarray]:
    """Variables of ours of which the norms' scales are those that in-place ABN makes of its weights."""
    return {key: in_place_scale(value) if key[-1] == "scale" else value for key, value in values.items()}


def in_place_weight(scale: np.ndarray) -> np.ndarray:
    """The weight of which `in_place_scale` is `scale` to the bit; NaN where a scale is below 1e-5.

    Of half of the float32 numbers from 7e-5 to 12e-5 there is none: those come back one bit lower or higher.
    """
    nearest = weight = scale - _EPSILON
    for towards in (0, np.inf):
        missed = in_place_scale(weight) != scale
        weight = np.where(missed, np.nextafter(nearest, np.float32(towards)), weight)
    weight = np.where(in_place_scale(weight) == scale, weight, nearest)
    return np.where(nearest >= 0, weight, np.float32(np.nan))


# ------------------------------------------------------------------------------------------------- files
def unreadable(source: pathlib.Path) -> str | None:
    """Why `read` could not even begin with `source`, and what to do; None if it can."""
    if not source.exists():
        return "does not exist; correct the path"
    if source.suffix in (".pth", ".pt"):
        if importlib.util.find_spec("torch") is None:
            return (
                "is read with PyTorch, which is not here: pip install torch, or convert the file to "
                ".safetensors elsewhere"
            )
    elif source.suffix != ".safetensors":
        return "is of no known kind; give a .safetensors, .pth or .pt file"
    return None


def read(source: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The tensors of a state dict, also of one inside a dict of other things, and what is said about them.

    No code in the file is run: PyTorch reads with weights_only=True.

    Returns:
      {name: array}, and the "meta" that mmsegmentation keeps beside its state dict, {} where there is none.

    Raises:
      UserError: the file cannot be read, or holds more than tensors and plain containers.
    """
    return _read_safetensors(source) if source.suffix == ".safetensors" else _read_torch(source)


def _read_safetensors(source: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    try:
        with safetensors.safe_open(source, framework="np") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            meta = json.loads((file.metadata() or {}).get("meta", "{}"))
    except (OSError, safetensors.SafetensorError, TypeError, AttributeError, ValueError) as error:
        raise UserError(
            f"{source} cannot be read as .safetensors ({_first_line(error)}); fetch it again"
        ) from None
    return tensors, meta if isinstance(meta, dict) else {}


def _read_torch(source: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    import torch  # nothing but these files needs PyTorch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickles of damaged files
            # with weights_only a pickle can make tensors and containers, and call nothing else
            whole = torch.load(source, map_location="cpu", weights_only=True)
            read, meta = whole, whole.get("meta") if isinstance(whole, dict) else None
            while isinstance(read, dict) and (inner := read.get("state_dict", read.get("model"))) is not None:
                read = inner
            tensors = read.items() if isinstance(read, dict) else ()
            arrays = {str(name): _array(value) for name, value in tensors if torch.is_tensor(value)}
    except pickle.UnpicklingError:
        raise UserError(
            f"{source} is damaged or holds more than tensors, which would be code and is not run; save its "
            "state_dict alone, best as .safetensors"
        ) from None
    except MemoryError:
        raise
    except Exception as error:  # whatever PyTorch's reader stumbles over in a damaged file
        raise UserError(f"{source} cannot be read ({_first_line(error)}); fetch it again") from None
    return arrays, meta if isinstance(meta, dict) else {}


def _array(tensor: Any) -> np.ndarray:
    """NumPy has no bfloat16; float32 holds all its numbers."""
    tensor = tensor.detach()
    return (tensor.float() if tensor.is_floating_point() else tensor).numpy()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [f"{type(error).__name__}, with no reason given"])[0]


def write(path: pathlib.Path, state: dict[str, np.ndarray], meta: dict[str, Any], nested: bool) -> None:
    """Write a state dict as .safetensors, .pth or .pt, whole or not at all.

    Args:
      path: of the file; its suffix says what it becomes.
      state: {name: array}.
      meta: what is said about them: JSON's types. In a .pth it is kept only where `nested`.
      nested: a .pth is {"meta": meta, "state_dict": state}, as mmsegmentation's; otherwise `state` alone.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        if path.suffix == ".safetensors":
            about = {"format": "pt", "meta": json.dumps(meta)}
            safetensors.numpy.save_file(state, temporary, metadata=about)
        else:
            import torch

            tensors = collections.OrderedDict((name, torch.from_numpy(v)) for name, v in state.items())
            torch.save({"meta": meta, "state_dict": tensors} if nested else tensors, temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
