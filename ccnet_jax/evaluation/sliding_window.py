"""Logits from sliding windows, averaged where windows overlap."""

import functools
import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int32

from ccnet_jax.models.resize import resize_bilinear

WINDOWS_AT_ONCE = 4  # windows of each image in one batch of the network


def sliding_window_logits(
    network_logits: Callable[[jax.Array], jax.Array],
    x: Float32[Array, "B H W 3"],
    num_classes: int,
    window: tuple[int, int],
    stride: tuple[int, int],
    align_corners: bool,
) -> Float32[Array, "B H W K"]:
    """The network's logits for whole images, the mean over all windows that cover a pixel.

    The network sees `WINDOWS_AT_ONCE` windows of every image at a time. A window that is larger than the
    image is cut to the image's size.

    Args:
      network_logits: windows [N, *window, 3] -> logits [N, h, w, num_classes], an eighth of each side.
      x: float32 [B, H, W, 3] RGB, 0 to 255.
      num_classes: of the logits.
      window: (height, width) in pixels.
      stride: (down, across) in pixels from one window to the next, at most the window.
      align_corners: how logits are upsampled to the window, see `resize_bilinear`.

    Returns:
      float32 [B, H, W, num_classes].
    """
    height, width = x.shape[1:3]
    window = min(window[0], height), min(window[1], width)
    tops, lefts = window_starts(height, window[0], stride[0]), window_starts(width, window[1], stride[1])
    corners = np.array(list(itertools.product(tops, lefts)), np.int32)
    at_once = min(WINDOWS_AT_ONCE, len(corners))
    total = jnp.zeros((*x.shape[:3], num_classes), device=x.sharding)
    for i in range(0, len(corners), at_once):
        group = corners[i : i + at_once]
        missing = at_once - len(group)  # the last group is filled up with windows of weight 0
        weights = np.pad(np.ones(len(group), np.float32), (0, missing))
        group = np.pad(group, ((0, missing), (0, 0)), mode="edge")
        logits = network_logits(_cut_windows(x, group, window))
        total = add_windows(total, logits, group, weights, window, align_corners)
    # the windows over a pixel: those over its row times those over its column
    return _divide(total, _windows_over(height, window[0], tops), _windows_over(width, window[1], lefts))


def window_starts(side: int, window: int, stride: int) -> list[int]:
    """First pixels of the windows that cover a side; the last window is moved back inside the image."""
    count = max(side - window + stride - 1, 0) // stride + 1
    return [max(min(i * stride, side - window), 0) for i in range(count)]


def _windows_over(side: int, window: int, starts: list[int]) -> np.ndarray:
    """How many of the windows lie over each pixel of a side, float32 [side]."""
    pixel, first = np.arange(side)[:, None], np.array(starts)
    return ((first <= pixel) & (pixel < first + window)).sum(1).astype(np.float32)


@functools.partial(jax.jit, static_argnames="window")
def _cut_windows(
    x: Float[Array, "B H W 3"],
    corners: Int32[Array, "N 2"] | Int32[np.ndarray, "N 2"],
    window: tuple[int, int],
) -> Float[Array, "BN h w 3"]:
    """The windows at N corners of every image, [B * N, *window, 3]; those of one image are neighbours."""
    size = (x.shape[0], *window, x.shape[3])
    windows = jax.vmap(lambda corner: jax.lax.dynamic_slice(x, (0, *corner, 0), size), out_axes=1)(corners)
    return windows.reshape(-1, *windows.shape[2:])


@functools.partial(jax.jit, static_argnames=("window", "align_corners"), donate_argnames="total")
def add_windows(
    total: Float32[Array, "B H W K"],
    logits: Float32[Array, "BN h w K"],
    corners: Int32[Array, "N 2"],
    weights: Float32[Array, " N"],
    window: tuple[int, int],
    align_corners: bool,
) -> Float32[Array, "B H W K"]:
    """`total` plus the windows' logits, upsampled to the window and multiplied by their weights.

    Args:
      total: float32 [B, H, W, K]; its memory is used for the result.
      logits: float32 [B * N, h, w, K] of N windows of every image.
      corners: int32 [N, 2], the (row, column) of each window's first pixel.
      weights: float32 [N], 1 or 0.
      window: (height, width) in pixels.
      align_corners: see `resize_bilinear`.
    """
    logits = logits.reshape(total.shape[0], len(corners), *logits.shape[1:])
    for i in range(len(corners)):
        addend = weights[i] * resize_bilinear(logits[:, i], window, align_corners)
        start = (0, corners[i, 0], corners[i, 1], 0)
        before = jax.lax.dynamic_slice(total, start, addend.shape)
        total = jax.lax.dynamic_update_slice(total, before + addend, start)
    return total


@functools.partial(jax.jit, donate_argnames="total")
def _divide(total: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    """total [B, H, W, K] by rows [H] and columns [W]."""
    return total / (rows[:, None, None] * columns[:, None])
