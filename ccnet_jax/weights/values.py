"""The values of weights: PyTorch's layout and ours, in-place ABN's scales, checks."""

import pathlib
import re

import numpy as np

from ccnet_jax.common.errors import UserError
from ccnet_jax.models.flavours import FLAVOURS
from ccnet_jax.weights.naming import COUNTER, Key, Naming, StateDict, is_counter

_EPSILON = np.float32(1e-5)  # in-place ABN's


# ------------------------------------------------------------------------------------------------ layout
def from_torch(
    tensors: StateDict, key: Key, shape: tuple[int, ...], naming: Naming, source: pathlib.Path, remedy: str
) -> np.ndarray:
    """Our variable `key` from a state dict.

    Args:
      tensors: the state dict. Kernels are [out, in, height, width], 1x1 kernels of the heads too.
      key: of the variable.
      shape: of the variable: a kernel is [height, width, in, out], of a Dense layer [in, out].
      naming: what the state dict calls its parts.
      source: the file, for error messages.
      remedy: what to do where a tensor has another shape.

    Returns:
      float32 of `shape`.

    Raises:
      UserError: the tensor is missing, has another shape or holds values that are not finite.
    """
    name, needed = naming.name(key), naming.shape(key, shape)
    if name not in tensors:
        raise UserError(
            f"{source} has no {name} ({sides(needed)}), though it has other parts of this network; take a "
            "complete file"
        )
    value = check_value(tensors[name], name, needed, source, remedy)
    match value.ndim, len(shape):
        case 4, 2:
            value = value[:, :, 0, 0].T
        case 4, 4:
            value = value.transpose(2, 3, 1, 0)
    return np.array(value.reshape(shape), order="C")


def to_torch(value: np.ndarray, key: Key, naming: Naming) -> np.ndarray:
    """Our variable `key` in PyTorch's layout: the reverse of `from_torch`."""
    value = np.asarray(value)
    needed = naming.shape(key, value.shape)
    match value.ndim:
        case 2:
            value = value.T
        case 4:
            value = value.transpose(3, 2, 0, 1)
    return np.array(value.reshape(needed), order="C")


def torch_tensors(
    variables: dict[Key, np.ndarray], naming: Naming, in_place: bool, step: int
) -> dict[str, np.ndarray]:
    """The state dict of a CCNet's flat variables.

    Args:
      variables: {key: array}, ours.
      naming: what the state dict calls its parts.
      in_place: write weights of which in-place ABN makes the scales, and no counters, of which it has none.
      step: what the counters of batches say.

    Returns:
      {name: array}, sorted by name.

    Raises:
      UserError: a scale is below 1e-5, which in-place ABN's cannot be.
    """
    tensors = {}
    for key, value in variables.items():
        if in_place and key[-1] == "scale":
            value = in_place_weight(value)
            if np.isnan(value).any():
                raise UserError(
                    f"{'/'.join(key)} holds scales below 1e-5, which in-place ABN cannot have (its are "
                    "|weight| + 1e-5); omit --inplace-abn and use plain batch norms in PyTorch"
                )
        tensors[naming.name(key)] = to_torch(value, key, naming)
        if key[-1] == "var" and not in_place:
            module = naming.name(key).rpartition(".")[0]
            tensors[f"{module}.{COUNTER}"] = np.array(step, np.int64)
    return dict(sorted(tensors.items()))


# ------------------------------------------------------------------------------------------------ checks
def check_value(
    value: np.ndarray, name: str, needed: tuple[int, ...], source: pathlib.Path, remedy: str
) -> np.ndarray:
    """`value` as float32.

    Raises UserError where its shape is not `needed`, or it holds numbers that no network can have.
    """
    value = np.asarray(value)
    if value.shape != needed and {value.shape, needed} != {(), (1,)}:
        swapped = value.ndim == len(needed) and sorted(value.shape) == sorted(needed)
        raise UserError(
            f"{name} in {source} is {sides(value.shape)} where this network needs {sides(needed)}"
            f"{', as if transposed' if swapped else ''}; {remedy}"
        )
    if not np.issubdtype(value.dtype, np.floating) and value.dtype.name != "bfloat16":
        raise UserError(f"{name} in {source} holds {value.dtype}, not floating numbers; take another copy")
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused
        value = value.astype(np.float32)
    check_numbers(value, name, source)
    return value


def check_numbers(value: np.ndarray, name: str, source: object) -> None:
    """Raise UserError where numbers are not finite, or are variances, by their name, and negative."""
    if not np.isfinite(value).all():
        raise UserError(
            f"{name} in {source} holds values that are not finite; take another copy, or other weights"
        )
    if re.split("[./]", name)[-1] in ("running_var", "var") and (value < 0).any():
        raise UserError(
            f"{name} in {source} holds variances below 0, with which no output is finite; take another copy, "
            "or other weights"
        )


def sides(shape: tuple[int, ...]) -> str:
    """For example "64x3x7x7"."""
    return "x".join(map(str, shape)) or "a single number"


# ---------------------------------------------------------------------------------------- in-place norms
def has_in_place_norms(tensors: StateDict, naming: Naming) -> bool:
    """Whether the norms of a CCNet are in-place ABN, whose scale is |weight| + 1e-5.

    In-place ABN keeps no counters of batches, PyTorch's own batch norm does.
    """
    if naming.heads is None or not FLAVOURS[naming.heads].in_place_norms:
        return False
    return not any(map(is_counter, tensors))


def in_place_scale(weight: np.ndarray) -> np.ndarray:
    """What in-place ABN multiplies with: |weight| + 1e-5 in float32."""
    return np.abs(weight) + _EPSILON


def with_in_place_scales(values: dict[Key, np.ndarray]) -> dict[Key, np.ndarray]:
    """Our variables, with the norms' weights replaced by the scales that in-place ABN makes of them."""
    return {key: in_place_scale(value) if key[-1] == "scale" else value for key, value in values.items()}


def in_place_weight(scale: np.ndarray) -> np.ndarray:
    """The weight of which `in_place_scale` makes exactly `scale`; NaN where a scale is below 1e-5.

    For half of the float32 numbers from 7e-5 to 12e-5 no such weight exists: those scales come back as the
    float32 number below or above.
    """
    nearest = weight = scale - _EPSILON
    for towards in (0, np.inf):
        missed = in_place_scale(weight) != scale
        weight = np.where(missed, np.nextafter(nearest, np.float32(towards)), weight)
    weight = np.where(in_place_scale(weight) == scale, weight, nearest)
    return np.where(nearest >= 0, weight, np.float32(np.nan))
