"""Predictions in every test mode: whole pictures or sliding windows, one scale or several, mirror images."""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ccnet_jax.evaluation.test_mode import WHOLE, TestMode
from ccnet_jax.models.ccnet import CCNet
from ccnet_jax.models.layers import resize_bilinear

_WINDOWS = 4  # of each picture at once through the network
_BLOCK_BYTES = 2**27  # of full-size logits at once

Predict = Callable[[Any, jax.Array], jax.Array]


def predictor(model: CCNet, mode: TestMode = WHOLE) -> Predict:
    """(variables, images uint8 [B, H, W, 3]) -> predicted classes uint8 [B, H, W].

    Pictures are resized on the device, bilinearly and with half-pixel centres. Logits are upsampled, as the
    model does it, to the size in which pictures were shown and from there to their own, a block of rows at
    a time: all of them never lie in memory at once, unless several scales or windows are summed. All is
    compiled inside; the network, which takes most of the time, once for each size in which it is shown
    pictures or windows, whatever the pictures' own sizes.
    """
    scores = scorer(model, mode)

    def predict(variables: Any, images: jax.Array) -> jax.Array:
        if len(mode.passes()) > 1:
            return _largest(scores(variables, images))
        logits, rows, columns = _logits_at_scale(model, variables, images, mode, *mode.passes()[0])
        return _largest_resized(logits, rows, columns)[:, : images.shape[1]]

    return predict


def scorer(model: CCNet, mode: TestMode = WHOLE) -> Predict:
    """(variables, images uint8 [B, H, W, 3]) -> scores float32 [B, H, W, classes], of which the largest wins.

    They are the sum of probabilities over scales and mirror images, or of logits where there is but one of
    them or where `mode` averages those (`mode.sums_probabilities`).
    """

    def scores(variables: Any, images: jax.Array) -> jax.Array:
        total = None
        for scale, mirror in mode.passes():
            logits, rows, columns = _logits_at_scale(model, variables, images, mode, scale, mirror)
            if total is None:
                blocks = _blocks(images.shape, model.num_classes)
                shape = (len(images), *blocks, images.shape[2], model.num_classes)
                total = jnp.zeros(shape, device=images.sharding)
            total = _add(total, logits, rows, columns, mode.sums_probabilities)
        height = total.shape[1] * total.shape[2]
        return total.reshape(len(images), height, *total.shape[3:])[:, : images.shape[1]]

    return scores


def window_starts(side: int, window: int, stride: int) -> list[int]:
    """First pixels of the windows that cover a side; the last one is moved back inside."""
    count = max(side - window + stride - 1, 0) // stride + 1
    return [max(min(i * stride, side - window), 0) for i in range(count)]


def _logits_at_scale(
    model: CCNet, variables: Any, images: jax.Array, mode: TestMode, scale: float, mirror: bool
) -> tuple[jax.Array, jax.Array | None, jax.Array | None]:
    """Logits of the pictures shown at one scale, and what resizes them to the pictures' own size.

    Returns:
      logits [B, h, w, classes], mirrored back; `rows` [blocks, rows of a block, h] and `columns` [W, w],
      weights to multiply them with; None where logits have the pictures' size.
    """
    size = images.shape[1:3]
    shown = mode.input_size(size, scale)
    x = _resized_input(images, shown, mirror)
    if mode.window is None:
        logits = _network(model, variables, x)
    else:
        logits = _sliding_window_logits(model, variables, x, mode.window, mode.stride)
    if mirror:
        logits = logits[:, :, ::-1]
    if logits.shape[1:3] == size:
        return logits, None, None
    rows, columns = (
        _resizing((there, between, own), model.aligned)
        for there, between, own in zip(logits.shape[1:3], shown, size, strict=True)
    )
    blocks, rows_of_a_block = _blocks(images.shape, model.num_classes)
    padding = ((0, blocks * rows_of_a_block - size[0]), (0, 0))
    return logits, np.pad(rows, padding).reshape(blocks, rows_of_a_block, -1), columns


def _blocks(shape: tuple[int, ...], num_classes: int) -> tuple[int, int]:
    """In how many blocks of rows the scores of pictures [B, H, W, 3] are made, and the rows of each."""
    blocks = -(-shape[0] * shape[1] * shape[2] * num_classes * 4 // _BLOCK_BYTES)
    return blocks, -(-shape[1] // blocks)


def _sliding_window_logits(
    model: CCNet, variables: Any, x: jax.Array, window: tuple[int, int], stride: tuple[int, int]
) -> jax.Array:
    """The network's logits [B, h, w, classes] for pictures x [B, h, w, 3], averaged where windows overlap.

    A window larger than the picture is cut to it. Windows go through the network `_WINDOWS` at a time.
    """
    size = x.shape[1:3]
    window = tuple(map(min, window, size))
    tops, lefts = map(window_starts, size, window, stride)
    corners = np.array(list(itertools.product(tops, lefts)), np.int32)
    at_once = min(_WINDOWS, len(corners))
    total = jnp.zeros((*x.shape[:3], model.num_classes), device=x.sharding)
    for i in range(0, len(corners), at_once):
        some = corners[i : i + at_once]
        missing = at_once - len(some)  # of the last: filled with windows that count nothing
        counts = np.pad(np.ones(len(some), np.float32), (0, missing))
        some = np.pad(some, ((0, missing), (0, 0)), mode="edge")
        logits = _network(model, variables, _cut(x, some, window))
        total = _add_windows(total, logits, some, counts, window, model.aligned)
    # a pixel's windows are those over its row times those over its column
    rows, columns = map(_windows_over, size, window, (tops, lefts))
    return _divided(total, rows, columns)


def _windows_over(side: int, window: int, starts: list[int]) -> np.ndarray:
    """How many of the windows lie over each pixel of a side, float32 [side]."""
    pixel, first = np.arange(side)[:, None], np.array(starts)
    return ((first <= pixel) & (pixel < first + window)).sum(1).astype(np.float32)


@functools.lru_cache(maxsize=64)
def _resizing(sides: tuple[int, ...], align_corners: bool) -> np.ndarray:
    """Weights float32 [last, first] that resize a side through all of `sides`, as `resize_bilinear` does."""
    weights = np.eye(sides[0])
    for side, out in itertools.pairwise(sides):
        if align_corners:
            position = np.arange(out) * (side - 1) / max(out - 1, 1)
        else:
            position = np.clip((np.arange(out) + 0.5) * side / out - 0.5, 0, side - 1)
        away = np.abs(position[:, None] - np.arange(side))
        weights = np.maximum(1 - away, 0) @ weights if side != out else weights
    return weights.astype(np.float32)


# The steps of a prediction are programs of their own, so that the network's, slow to compile, does not depend
# on the size of the pictures that windows are cut from, nor on the size to which logits are upsampled.


@functools.partial(jax.jit, static_argnames="model")
def _network(model: CCNet, variables: Any, x: jax.Array) -> jax.Array:
    """Logits as the head gives them, an eighth of each side."""
    return model.apply(variables, x, upsample=False)[0]


@functools.partial(jax.jit, static_argnames="size")
def _resized_input(images: jax.Array, size: tuple[int, int], mirror: jax.Array) -> jax.Array:
    """float32 of `size`, as OpenCV resizes, mirrored if `mirror`."""
    x = resize_bilinear(images.astype(jnp.float32), size, align_corners=False)
    return jnp.where(mirror, x[:, :, ::-1], x)


@functools.partial(jax.jit, static_argnames="window")
def _cut(x: jax.Array, corners: jax.Array, window: tuple[int, int]) -> jax.Array:
    """The windows at N corners of every picture, [B * N, *window, 3], a picture's one after the other."""
    size = (x.shape[0], *window, x.shape[3])
    parts = jax.vmap(lambda corner: jax.lax.dynamic_slice(x, (0, *corner, 0), size), out_axes=1)(corners)
    return parts.reshape(-1, *parts.shape[2:])


@functools.partial(jax.jit, static_argnames=("window", "align_corners"), donate_argnames="total")
def _add_windows(
    total: jax.Array,
    logits: jax.Array,
    corners: jax.Array,
    counts: jax.Array,
    window: tuple[int, int],
    align_corners: bool,
) -> jax.Array:
    """`total` with the windows' logits, upsampled to their size, times `counts`, added at the corners."""
    logits = logits.reshape(total.shape[0], len(corners), *logits.shape[1:])
    for i in range(len(corners)):
        part = counts[i] * resize_bilinear(logits[:, i], window, align_corners)
        start = (0, corners[i, 0], corners[i, 1], 0)
        there = jax.lax.dynamic_slice(total, start, part.shape)
        total = jax.lax.dynamic_update_slice(total, there + part, start)
    return total


@functools.partial(jax.jit, donate_argnames="total")
def _divided(total: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    return total / (rows[:, None, None] * columns[:, None])


@functools.partial(jax.jit, static_argnames="probabilities", donate_argnames="total")
def _add(
    total: jax.Array,
    logits: jax.Array,
    rows: jax.Array | None,
    columns: jax.Array | None,
    probabilities: bool,
) -> jax.Array:
    """`total` [B, blocks, rows of a block, W, classes] with the resized logits, or their softmax, added."""
    scores = jax.nn.softmax if probabilities else lambda logits: logits
    if rows is None:
        missing = total.shape[1] * total.shape[2] - logits.shape[1]  # rows of the last block
        padded = jnp.pad(scores(logits), ((0, 0), (0, missing), (0, 0), (0, 0)))
        return total + padded.reshape(total.shape)

    def add_block(i: int, total: jax.Array) -> jax.Array:
        return total.at[:, i].add(scores(_resized_block(logits, rows[i], columns)))

    return jax.lax.fori_loop(0, len(rows), add_block, total)


@jax.jit
def _largest_resized(logits: jax.Array, rows: jax.Array | None, columns: jax.Array | None) -> jax.Array:
    """The classes [B, >= H, W] of the largest resized logits, of which it holds only a block at a time."""
    if rows is None:
        return _largest(logits)
    blocks = jax.lax.map(lambda block: _largest(_resized_block(logits, block, columns)), rows)
    return jnp.moveaxis(blocks, 0, 1).reshape(len(logits), -1, len(columns))


def _resized_block(logits: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    """logits [B, h, w, K], rows [r, h], columns [W, w] -> [B, r, W, K], in full float32 on any device."""
    exact = jax.lax.Precision.HIGHEST
    part = jnp.einsum("rh,bhwk->brwk", rows, logits, precision=exact)
    return jnp.einsum("Ww,brwk->brWk", columns, part, precision=exact)


@jax.jit
def _largest(scores: jax.Array) -> jax.Array:
    return scores.argmax(-1).astype(jnp.uint8)
