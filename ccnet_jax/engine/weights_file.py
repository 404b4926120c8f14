"""A network's weights as one file, model.safetensors: how networks are shared."""

import json
import pathlib
from typing import Any

import numpy as np
import safetensors.numpy
from flax import traverse_util

from ccnet_jax.common.errors import UserError, write_whole
from ccnet_jax.common.files import check_regular

NAME = "model.safetensors"
_MARK = "ccnet_jax"  # in the file's metadata; one entry, since their order is left to chance


def write(path: pathlib.Path, variables: dict[str, Any], step: int | None) -> None:
    """Write {"params", "batch_stats"} under names as params/backbone/stem_conv1/kernel.

    Args:
      path: of the file, which is whole or not there.
      variables: of a network, as NumPy arrays.
      step: number of steps behind them, if that is known.

    Raises:
      UserError: the file cannot be written.
    """
    named = {
        name: np.asarray(value) for name, value in traverse_util.flatten_dict(variables, sep="/").items()
    }
    write_whole(path, safetensors.numpy.save(named, metadata={_MARK: json.dumps({"step": step})}))


def read(path: pathlib.Path) -> tuple[Any, int | None]:
    """(variables as NumPy arrays, number of steps behind them or None).

    Raises UserError where the file cannot be read or is not what `write` wrote.
    """
    try:
        check_regular(path)
        with safetensors.safe_open(path, framework="np") as file:
            about = file.metadata() or {}
            named = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, safetensors.SafetensorError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); fetch it again") from None
    if _MARK not in about:
        raise UserError(f"{path} holds PyTorch's names; python -m ccnet_jax.convert makes a network of it")
    return traverse_util.unflatten_dict(named, sep="/"), _step(about[_MARK])


def is_ours(path: pathlib.Path) -> bool:
    """Whether a file holds a network as `write` writes it, and not PyTorch's names."""
    try:
        check_regular(path)
        with safetensors.safe_open(path, framework="np") as file:
            return _MARK in (file.metadata() or {})
    except (OSError, safetensors.SafetensorError):
        return False


def _step(mark: str) -> int | None:
    try:
        step = json.loads(mark)["step"]
    except (ValueError, KeyError, TypeError):
        return None
    return step if isinstance(step, int) else None
