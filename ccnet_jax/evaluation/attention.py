"""What a pixel attends to: RCCA's attention of one loop, and of several composed."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ccnet_jax.common.errors import UserError
from ccnet_jax.common.kernels import criss_cross_attention
from ccnet_jax.models.ccnet import CCNet
from ccnet_jax.models.variables import Variables


def attention_maps(
    network: CCNet, variables: Variables, image: np.ndarray, point: tuple[int, int]
) -> np.ndarray:
    """How much of every feature's value reaches one pixel's feature, after 1, 2, ... loops.

    With A_t[u, v] the weight that pixel u gives to pixel v in loop t, the map after n loops is row u of
    A_n ... A_2 A_1: equations (3) and (4) of the paper's section 3.3 for n = 2, where information goes from a
    pixel to another by way of the corners of their rectangle. After one loop it is a cross, after two it
    may be the whole image. Each map sums to 1. It is the derivative of the attended values with the
    projections frozen, divided by gamma's and the value weights' part.

    Args:
      network: with the context "rcca".
      variables: its {"params", "batch_stats"}.
      image: uint8 [H, W, 3] RGB, shown whole.
      point: (row, column) in the image.

    Returns:
      float32 [loops, h, w], at the features' size, an eighth of the image's.

    Raises:
      UserError: the network finds instances or has another context, or the point is no pixel of the image.
    """
    _check(network, image, point)
    inputs = inputs_of_loops(network, variables, image)
    return maps_of(variables, inputs, feature_at(point, image, inputs))


def _check(network: CCNet, image: np.ndarray, point: tuple[int, int]) -> None:
    """Raise UserError where `attention_maps` does not take these arguments."""
    if not isinstance(network, CCNet):
        raise UserError("attention maps are of networks for semantic segmentation; choose such a run")
    if network.context != "rcca":
        raise UserError(f"attention maps are RCCA's, and this network's context is {network.context!r}")
    whole = all(isinstance(at, int | np.integer) for at in point)
    if not whole or not all(0 <= at < side for at, side in zip(point, image.shape, strict=False)):
        raise UserError(
            f"the point {tuple(point)} is no pixel of the image of {image.shape[0]} rows and "
            f"{image.shape[1]} columns; give ROW,COLUMN"
        )


def maps_of(variables: Variables, inputs: list[jax.Array], feature: tuple[int, int]) -> np.ndarray:
    """The maps of one feature, from what `inputs_of_loops` gives; see `attention_maps`.

    Args:
      variables: of the network.
      inputs: features [1, h, w, C] that go into each loop.
      feature: (row, column) among the h x w.
    """
    parameters = variables["params"]["head"]["context"]["rcca"]["attention"]
    start = jnp.zeros((1, *inputs[0].shape[1:3], 1)).at[0, feature[0], feature[1]].set(1)
    maps = []
    for loops in range(1, len(inputs) + 1):
        reached = start
        for x in reversed(inputs[:loops]):
            reached = _spread(parameters, x, reached)
        maps.append(reached[0, :, :, 0])
    return np.asarray(jnp.stack(maps))


def inputs_of_loops(network: CCNet, variables: Variables, image: np.ndarray) -> list[jax.Array]:
    """The features [1, h, w, C] that go into each of RCCA's loops, for an image uint8 [H, W, 3] RGB.

    They do not depend on the pixel that is asked for: whoever asks for several computes them once.
    """
    return _inputs_of_loops(network, variables, jnp.asarray(image[None]))


def feature_at(point: tuple[int, int], image: np.ndarray, inputs: list[jax.Array]) -> tuple[int, int]:
    """The (row, column) of the feature over an image's pixel."""
    (row, column), (height, width) = point, inputs[0].shape[1:3]
    return row * height // image.shape[0], column * width // image.shape[1]


@functools.partial(jax.jit, static_argnames="network")
def _inputs_of_loops(network: CCNet, variables: Variables, images: jax.Array) -> list[jax.Array]:
    """The features [1, h, w, C] that go into each of RCCA's loops."""

    def is_wanted(module: Any, _: str) -> bool:
        return module.name == "attention" or module.path == ("head", "before")

    plain = network.clone(remat="none")  # under remat the outputs of the loops are not captured
    _, state = plain.apply(variables, images, capture_intermediates=is_wanted, mutable="intermediates")
    captured = state["intermediates"]["head"]
    (first,) = captured["before"]["__call__"]
    (outputs,) = captured["context"]["rcca"]["attention"]["__call__"]  # of all loops, [loops, 1, h, w, C]
    return [first, *outputs[:-1]]


@jax.jit
def _spread(parameters: Any, x: jax.Array, weights: jax.Array) -> jax.Array:
    """A^T `weights` [1, h, w, 1]: where the values that they sum come from, in the loop with input x."""
    query, key = (x @ parameters[name]["kernel"] + parameters[name]["bias"] for name in ("query", "key"))

    def attended(value: jax.Array) -> jax.Array:
        query32, key32 = query.astype(jnp.float32), key.astype(jnp.float32)
        return criss_cross_attention(query32, key32, value, implementation="xla")

    _, transpose = jax.vjp(attended, jnp.zeros_like(weights))
    return transpose(weights)[0]
