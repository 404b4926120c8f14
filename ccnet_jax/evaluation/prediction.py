"""Predictions in every test mode: whole images or sliding windows, one scale or several, mirror images.

The steps of a prediction are separate compiled programs. So the network, which is slow to compile, is
compiled once for each size in which it sees images or windows, whatever the images' own sizes.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32, Num, UInt8

from ccnet_jax.common.devices import compiler_options
from ccnet_jax.common.errors import UserError
from ccnet_jax.common.labels import VOID
from ccnet_jax.evaluation.sliding_window import sliding_window_logits
from ccnet_jax.evaluation.test_mode import WHOLE, TestMode
from ccnet_jax.models.ccnet import CCNet
from ccnet_jax.models.resize import (
    Upsampling,
    resize_bilinear,
    split_rows,
    upsampled_block,
    upsampling_matrices,
)
from ccnet_jax.models.variables import Variables

BLOCK_BYTES = 2**27  # of full-size float32 logits in one block of rows
Predict = Callable[[Any, jax.Array], jax.Array]


def predictor(network: CCNet, mode: TestMode = WHOLE) -> Predict:
    """A function (variables, images uint8 [B, H, W, 3] RGB) -> predicted classes uint8 [B, H, W].

    A pixel is VOID where the network's output is not finite.

    Images are resized on the device, bilinearly, as `mode.scaling` says. Logits are upsampled, as the
    network does it, first to the size that the network saw and then to the image's own. With one pass
    (`mode.passes`) of whole images, full-size logits are made for one block of rows at a time; several
    passes, and sliding windows, are summed at full size.
    """
    scores = scorer(network, mode)

    def predict(variables: Variables, images: UInt8[Array, "B H W 3"]) -> UInt8[Array, "B H W"]:
        if len(mode.passes()) > 1:
            return largest(scores(variables, images))
        scale, mirror = mode.passes()[0]
        logits, upsampling = _logits_of_pass(network, variables, images, mode, scale, mirror)
        return largest_upsampled(logits, upsampling)[:, : images.shape[1]]

    return predict


class NotFinite(UserError):
    """The network's output for an image is not finite, and so has no meaning.

    Args:
      image: what to call it.
    """

    def __init__(self, image: object):
        super().__init__(
            f"the network's output for {image} is not finite: its weights are corrupt, or its numbers too "
            "large for config.dtype; take another checkpoint"
        )


def scorer(network: CCNet, mode: TestMode = WHOLE) -> Predict:
    """A function (variables, images uint8 [B, H, W, 3] RGB) -> scores float32 [B, H, W, num_classes].

    The class of the largest score is predicted. Scores are the sum over the passes of probabilities, or of
    logits where there is one pass only or where `mode` averages logits (`mode.sums_probabilities` tells).
    """

    def scores(variables: Variables, images: UInt8[Array, "B H W 3"]) -> Float32[Array, "B H W K"]:
        batch, height, width, _ = images.shape
        blocks = row_blocks(images.shape, network.num_classes)
        total: jax.Array | None = None
        for scale, mirror in mode.passes():
            logits, upsampling = _logits_of_pass(network, variables, images, mode, scale, mirror)
            if total is None:  # after the first logits: the network's own memory is free again
                shape = (batch, *blocks, width, network.num_classes)
                total = jnp.zeros(shape, device=images.sharding)
            total = add_upsampled(total, logits, upsampling, mode.sums_probabilities)
        assert total is not None, "a test mode has at least one pass"
        rows = total.shape[1] * total.shape[2]
        return total.reshape(batch, rows, *total.shape[3:])[:, :height]

    return scores


def _logits_of_pass(
    network: CCNet, variables: Variables, images: jax.Array, mode: TestMode, scale: float, mirror: bool
) -> tuple[Float32[Array, "B h w K"], Upsampling | None]:
    """Logits of one pass through the network, mirrored back, and what upsamples them to the images' size.

    The second is None where the logits have the images' size.
    """
    size = images.shape[1], images.shape[2]
    input_size = mode.input_size(size, scale)
    x = _resized_input(images, input_size, mirror, mode.aligns_corners(scale))
    network_logits = functools.partial(_network_logits, network, variables)
    if mode.window is None or mode.stride is None:
        logits = network_logits(x)
    else:
        logits = sliding_window_logits(
            network_logits, x, network.num_classes, mode.window, mode.stride, network.aligns_corners
        )
    if mirror:
        logits = logits[:, :, ::-1]
    logits_size = logits.shape[1], logits.shape[2]
    if logits_size == size:
        return logits, None
    sizes = (logits_size, input_size, size)
    blocks = row_blocks(images.shape, network.num_classes)
    return logits, upsampling_matrices(sizes, network.aligns_corners, blocks)


def _network_logits(
    network: CCNet, variables: Variables, x: Float32[Array, "B H W 3"]
) -> Float32[Array, "B h w K"]:
    """Logits as the head gives them, an eighth of each side."""
    if isinstance(x, jax.core.Tracer):  # inside a program of the caller's, who chooses its compiler's options
        return network.apply(variables, x, upsample=False)[0]
    return _compile_network(network)(variables, x)


@functools.cache
def _compile_network(network: CCNet) -> Callable[[Variables, jax.Array], jax.Array]:
    """`network.apply`, compiled once for all predictors of the network."""
    return jax.jit(
        lambda variables, x: network.apply(variables, x, upsample=False)[0],
        compiler_options=compiler_options(),
    )


@functools.partial(jax.jit, static_argnames=("size", "align_corners"))
def _resized_input(
    images: Num[Array, "B H W 3"], size: tuple[int, int], mirror: bool | jax.Array, align_corners: bool
) -> Float32[Array, "B h w 3"]:
    """float32 images of `size`, resized as `resize_bilinear` does it, mirrored if `mirror`."""
    x = resize_bilinear(images.astype(jnp.float32), size, align_corners)
    return jnp.where(mirror, x[:, :, ::-1], x)


def row_blocks(shape: tuple[int, ...], num_classes: int) -> tuple[int, int]:
    """In how many blocks the rows of images [B, H, W, 3] are upsampled, and the rows of each block."""
    return split_rows(shape[1], shape[0] * shape[2] * num_classes * 4, BLOCK_BYTES)


@functools.partial(jax.jit, static_argnames="probabilities", donate_argnames="total")
def add_upsampled(
    total: Float32[Array, "B blocks rows W K"],
    logits: Float32[Array, "B h w K"],
    upsampling: Upsampling | None,
    probabilities: bool,
) -> Float32[Array, "B blocks rows W K"]:
    """`total` plus the upsampled logits, or plus their softmax.

    Args:
      total: float32 [B, blocks, rows of a block, W, K]; its memory is used for the result.
      logits: float32 [B, h, w, K].
      upsampling: None where logits have the image's size.
      probabilities: add the softmax over the classes.
    """
    scores = jax.nn.softmax if probabilities else lambda logits: logits
    if upsampling is None:
        missing = total.shape[1] * total.shape[2] - logits.shape[1]  # rows of the last block
        padded = jnp.pad(scores(logits), ((0, 0), (0, missing), (0, 0), (0, 0)))
        return total + padded.reshape(total.shape)

    def add_block(i: jax.Array, total: jax.Array) -> jax.Array:
        block = upsampled_block(logits, upsampling.rows[i], upsampling.columns)
        return total.at[:, i].add(scores(block))

    return jax.lax.fori_loop(0, len(upsampling.rows), add_block, total)


@jax.jit
def largest_upsampled(
    logits: Float32[Array, "B h w K"], upsampling: Upsampling | None
) -> UInt8[Array, "B H W"]:
    """The class of the largest upsampled logit of each pixel; only one block of them is in memory at a time.

    Args:
      logits: float32 [B, h, w, K].
      upsampling: None where logits have the image's size.

    Returns:
      uint8 [B, blocks * rows of a block, W]; the rows after the image's H mean nothing.
    """
    if upsampling is None:
        return largest(logits)
    rows, columns = upsampling
    blocks = jax.lax.map(lambda block: largest(upsampled_block(logits, block, columns)), rows)
    return jnp.moveaxis(blocks, 0, 1).reshape(len(logits), -1, len(columns))


@jax.jit
def largest(scores: Float32[Array, "*pixels K"]) -> UInt8[Array, "*pixels"]:
    """The class of the largest score of each pixel; VOID where that is not finite or a score is NaN."""
    best = scores.max(-1)  # NaN where one is
    return jnp.where(jnp.isfinite(best), scores.argmax(-1), VOID).astype(jnp.uint8)
