"""Files of PyTorch's weights: .safetensors, .pth and .pt."""

import collections
import importlib.metadata
import importlib.util
import io
import json
import pathlib
import pickle
import re
import typing
import warnings
import zipfile

import numpy as np
import safetensors
import safetensors.numpy

from ccnet_jax.common.errors import UserError, first_line, write_whole
from ccnet_jax.common.files import check_regular

if typing.TYPE_CHECKING:
    import torch

Meta = dict[str, object]  # what mmsegmentation keeps beside its state dict: JSON's types
_NESTED = ("state_dict", "model_state_dict", "model", "net")  # where a training script puts one
SAFE_TORCH = (2, 10)  # the first version whose weights_only=True holds
SUFFIXES = (".safetensors", ".pth", ".pt")
_DEEPEST = 10  # dictionaries around a state dict


class TensorFile(typing.NamedTuple):
    """What a file of weights holds.

    Attributes:
      tensors: {name: array}, the state dict.
      meta: the "meta" beside it, {} where there is none.
    """

    tensors: dict[str, np.ndarray]
    meta: Meta


# ------------------------------------------------------------------------------------------------ checks
def check_readable(source: pathlib.Path, title: str) -> None:
    """Raise UserError where `read` could not even begin with `source`; `title` is how the user named it."""
    if not source.exists():
        raise UserError(f"{title} does not exist; correct the path")
    try:
        check_regular(source)
    except OSError as error:
        raise UserError(f"{title} cannot be read ({error.strerror}); correct the path") from None
    if source.suffix not in SUFFIXES:
        raise UserError(f"{title} is of no known kind; give a .safetensors, .pth or .pt file")
    if needs_torch(source) and not has_torch():
        raise UserError(
            f"{title} is read with PyTorch, which is not installed: pip install torch, or convert the file "
            "to .safetensors where PyTorch is installed"
        )


def needs_torch(path: pathlib.Path) -> bool:
    """Whether PyTorch reads and writes this kind of file."""
    return path.suffix in (".pth", ".pt")


def has_torch() -> bool:
    """Whether PyTorch is installed."""
    return importlib.util.find_spec("torch") is not None


# --------------------------------------------------------------------------------------------------- read
def read(source: pathlib.Path) -> TensorFile:
    """The state dict in a file, also where it is inside a dictionary of other things.

    No code in the file is run: PyTorch reads with weights_only=True.

    Raises UserError where the file cannot be read, or holds more than tensors and plain containers.
    """
    return _read_torch(source) if needs_torch(source) else _read_safetensors(source)


def _read_safetensors(source: pathlib.Path) -> TensorFile:
    try:
        with safetensors.safe_open(source, framework="np") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            meta = json.loads((file.metadata() or {}).get("meta", "{}"))
    except (
        *(OSError, safetensors.SafetensorError, TypeError, AttributeError, ValueError),
        RecursionError,  # of lists in lists in lists, without end
    ) as error:
        raise UserError(
            f"{source} cannot be read as .safetensors ({first_line(error)}); fetch it again"
        ) from None
    return TensorFile(tensors, meta if isinstance(meta, dict) else {})


def _read_torch(source: pathlib.Path) -> TensorFile:
    _check_not_compressed(source)
    _check_torch(source)
    import torch  # nothing but these files needs PyTorch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickles of corrupt files
            # with weights_only a pickle can make tensors and containers, and call nothing else
            content = torch.load(source, map_location="cpu", weights_only=True)
            meta = content.get("meta") if isinstance(content, dict) else None
            named = _state_dict_in(content).items()
            tensors = {str(name): _array(value) for name, value in named if torch.is_tensor(value)}
    except pickle.UnpicklingError:
        raise UserError(
            f"{source} is corrupt or holds more than tensors, which would be code and is not run; save its "
            "state_dict alone, best as .safetensors"
        ) from None
    except MemoryError:
        raise
    except Exception as error:  # whatever PyTorch's reader finds in a corrupt file
        raise UserError(f"{source} cannot be read ({first_line(error)}); fetch it again") from None
    return TensorFile(tensors, meta if isinstance(meta, dict) else {})


def _check_torch(source: pathlib.Path) -> None:
    """Raise UserError where the PyTorch that is installed could run code in a file: PYSEC-2026-2286."""
    found = importlib.metadata.version("torch")
    if tuple(int(part) for part in re.findall(r"\d+", found)[:2]) < SAFE_TORCH:
        needed = ".".join(map(str, SAFE_TORCH))
        raise UserError(
            f"{source} is not read with PyTorch {found}, in which a file can run code in spite of "
            f"weights_only=True; install torch {needed} or newer"
        )


def _check_not_compressed(source: pathlib.Path) -> None:
    """Raise UserError where a zip file's parts are together larger than the file: PyTorch compresses nothing.

    A file of a few megabytes could fill the memory otherwise.
    """
    try:
        with zipfile.ZipFile(source) as file:
            size = sum(part.file_size for part in file.infolist())
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile):
        return  # no zip file, as older versions wrote it, or a corrupt one: PyTorch says so
    if size > source.stat().st_size:
        raise UserError(
            f"{source} unpacks to {size / 1e6:,.0f} MB, more than it has, and PyTorch compresses nothing; "
            "save its state_dict again, best as .safetensors"
        )


def _state_dict_in(content: object) -> dict:
    """The innermost state dict under a usual name, or `content` itself; {} where it is no dictionary."""
    for _ in range(_DEEPEST):  # a pickle can hold itself
        if not isinstance(content, dict):
            break
        name = next((name for name in _NESTED if isinstance(content.get(name), dict)), None)
        if name is None:
            return content
        content = content[name]
    return {}


def _array(tensor: "torch.Tensor") -> np.ndarray:
    """The tensor's values; NumPy has no bfloat16, and float32 holds all its numbers.

    Raises ValueError where it has more numbers than are stored for it: each stands for many.
    """
    tensor = tensor.detach()
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise ValueError("a tensor has more numbers than are stored")
    return (tensor.float() if tensor.is_floating_point() else tensor).numpy()


# -------------------------------------------------------------------------------------------------- write
def write(path: pathlib.Path, tensors: dict[str, np.ndarray], meta: Meta, nested: bool) -> None:
    """Write a state dict as a file of the kind that the suffix of `path` names.

    Args:
      path: of the file, which is whole or not there.
      tensors: {name: array}.
      meta: kept beside the tensors; in a .pth only where `nested`.
      nested: a .pth holds {"meta": meta, "state_dict": tensors}, as mmsegmentation's; otherwise `tensors`.

    Raises:
      UserError: the file cannot be written.
    """
    if not needs_torch(path):
        about = {"format": "pt", "meta": json.dumps(meta)}
        write_whole(path, safetensors.numpy.save(tensors, metadata=about))
        return
    import torch

    state = collections.OrderedDict((name, torch.from_numpy(value)) for name, value in tensors.items())
    buffer = io.BytesIO()
    torch.save({"meta": meta, "state_dict": state} if nested else state, buffer)
    write_whole(path, buffer.getvalue())
