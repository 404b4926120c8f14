"""The values of a PyTorch state dict as our variables. Needs no more than JAX and Flax."""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from ccnet_jax.common.errors import UserError
from ccnet_jax.models.config import ModelConfig, build_network
from ccnet_jax.weights import values
from ccnet_jax.weights.detection import DetectedNetwork
from ccnet_jax.weights.naming import Key, StateDict

_LISTED = 5  # missing tensors that an error message names


def convert_tensors(
    tensors: StateDict, network: DetectedNetwork, model: ModelConfig, in_place: bool, source: pathlib.Path
) -> dict[str, Any]:
    """The variables of the network found: {"params", "batch_stats"}, of a ResNet alone those of its backbone.

    Args:
      tensors: the state dict.
      network: what was found in it.
      model: the settings of the network, which agree with what was found.
      in_place: the norms' scales become |weight| + 1e-5.
      source: the file, for error messages.

    Raises:
      UserError: a tensor is missing, has another shape or is not finite.
    """
    shapes = variable_shapes(model, network.num_classes)
    names = {key: network.naming.name(key) for key in shapes}
    if missing := sorted(set(names.values()) - set(tensors)):
        more = f" and {len(missing) - _LISTED} more" if len(missing) > _LISTED else ""
        raise UserError(
            f"{source} holds a {network}, but lacks {', '.join(missing[:_LISTED])}{more}; take a "
            "complete file"
        )
    remedy = f"the other tensors are those of a {network}; take another copy"
    converted = {
        key: values.from_torch(tensors, key, shape, network.naming, source, remedy)
        for key, shape in shapes.items()
    }
    if in_place:
        converted = values.with_in_place_scales(converted)
    return jax.tree.map(jnp.asarray, traverse_util.unflatten_dict(converted))


def variable_shapes(model: ModelConfig, num_classes: int | None) -> dict[Key, tuple[int, ...]]:
    """The shapes of a network's variables; where `num_classes` is None those of its backbone."""
    images = jax.ShapeDtypeStruct((1, 64, 64, 3), np.uint8)
    tree = jax.eval_shape(build_network(model, num_classes or 1).init, jax.random.key(0), images)
    shapes = {key: value.shape for key, value in traverse_util.flatten_dict(tree).items()}
    if num_classes is not None:
        return shapes
    return {key: shape for key, shape in shapes.items() if key[1] == "backbone"}
