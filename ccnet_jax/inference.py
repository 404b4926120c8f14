"""Testing as papers do: whole pictures or sliding windows, at one scale or at several with mirror images."""

import dataclasses
import functools
import itertools
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import tqdm
from jax.experimental import multihost_utils

from ccnet_jax import metrics, sharding, visualize
from ccnet_jax.data import pipeline
from ccnet_jax.data.files import Source
from ccnet_jax.data.transforms import fitted_size
from ccnet_jax.models.ccnet import CCNet
from ccnet_jax.models.layers import resize_bilinear

# The ratios of "ms + flip" testing.
SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
DRAWN = 8  # pictures an evaluation draws
_SMALLEST = 32  # pixels a side; what the network takes at least

Predict = Callable[[Any, jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class Testing:
    """How pictures are tested, in the words of mmsegmentation's configs; without arguments whole as they are.

    Attributes:
      fit: (long, short) sides of a box into which a picture is resized first, None leaves it.
      window: (height, width) of sliding windows, None shows the network the whole picture.
      stride: (down, across) from one window to the next; goes with `window`.
      scales: ratios of the fitted size at which it is shown.
      flip: at each of them its mirror image is shown too.
    """

    fit: tuple[int, int] | None = None
    window: tuple[int, int] | None = None
    stride: tuple[int, int] | None = None
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False

    @classmethod
    def of(cls, config: ml_collections.ConfigDict, ms_flip: bool = False) -> "Testing":
        """What a run's config says, at one scale, or at `SCALES` with mirror images."""
        scales = SCALES if ms_flip else (1.0,)
        return cls(config.data.fit, config.eval_window, config.eval_stride, scales, ms_flip)

    def __str__(self) -> str:
        """For example "fit 2049x1025, slide 769x769/513x513, ms-flip"; sizes as the config has them."""
        words = [] if self.fit is None else ["fit {}x{}".format(*self.fit)]
        if self.window is None:
            words += ["whole"]
        else:
            words += ["slide {}x{}/{}x{}".format(*self.window, *self.stride)]
        if self.scales == SCALES and self.flip:
            words += ["ms-flip"]
        elif self.scales != (1.0,) or self.flip:
            words += [f"scales {', '.join(map(str, self.scales))}", *["flip"] * self.flip]
        return ", ".join(words)

    def shown_size(self, size: tuple[int, int], scale: float) -> tuple[int, int]:
        """The (height, width) at which a picture of `size` is shown at one of the scales."""
        height, width = size if self.fit is None else fitted_size(size, self.fit)
        return tuple(max(int(side * scale + 0.5), _SMALLEST) for side in (height, width))


WHOLE = Testing()


def predictor(model: CCNet, testing: Testing = WHOLE) -> Predict:
    """(variables, images uint8 [B, H, W, 3]) -> predicted classes uint8 [B, H, W].

    Logits are upsampled to the pictures' own size, as the model does it; with several scales or mirror
    images their softmax is averaged there. Pictures are resized on the device, bilinearly and with
    half-pixel centres. All is compiled inside; the network, which takes most of the time, once for each
    size in which it is shown pictures or windows, whatever the pictures' own sizes.
    """
    passes = list(itertools.product(testing.scales, (False, True) if testing.flip else (False,)))

    def logits(variables: Any, images: jax.Array, scale: float, mirror: bool) -> jax.Array:
        x = _shown(images, testing.shown_size(images.shape[1:3], scale), mirror)
        return _logits(model, variables, x, testing.window, testing.stride)

    def predict(variables: Any, images: jax.Array) -> jax.Array:
        if len(passes) == 1:
            return _largest(_upsampled(model, logits(variables, images, *passes[0]), images.shape[1:3]))
        total = jnp.zeros((*images.shape[:3], model.num_classes), device=images.sharding)
        for scale, mirror in passes:
            total = _add_probabilities(model, total, logits(variables, images, scale, mirror), mirror)
        return _largest(total)

    return predict


def evaluate(
    predict: Predict,
    variables: Any,
    source: Source,
    batch_size: int,
    pictures: pathlib.Path | None = None,
    limit: int | None = None,
) -> dict[str, Any]:
    """Scores of the network on every picture of `source`, at the pictures' own sizes.

    Each process predicts its share of the pictures on its own devices; the counts are added up.

    Args:
      predict: from `predictor`.
      variables: of the network, on all devices.
      source: the pictures.
      batch_size: pictures at once, of each process; raised to a multiple of its devices.
      pictures: folder for the first `DRAWN` comparisons, None for none.
      limit: take only the first pictures.

    Returns:
      `metrics.scores`, the "confusion" matrix behind them, "pictures" (their number) and "images_per_second".
    """
    mesh = sharding.data_mesh(jax.local_devices())
    variables = sharding.on_this_process(variables, mesh)
    batch_size = -(-batch_size // mesh.size) * mesh.size
    process, processes = jax.process_index(), jax.process_count()
    count = min(limit or len(source), len(source))
    confusion = np.zeros((len(source.classes), len(source.classes)), np.int64)
    started = time.perf_counter()
    with tqdm.tqdm(
        total=len(range(process, count, processes)), unit="image", leave=False, disable=process != 0
    ) as bar:
        for batch in pipeline.evaluation_batches(source, count, batch_size, process, processes):
            predicted = np.asarray(
                predict(variables, jax.device_put(batch["image"], sharding.batch_sharding(mesh)))
            )
            confusion += metrics.confusion_matrix(batch["label"], predicted, len(source.classes))
            for i, index in enumerate(batch["index"]):
                if pictures is not None and 0 <= index < DRAWN:
                    drawing = visualize.comparison(
                        batch["image"][i], batch["label"][i], predicted[i], source.classes, source.palette
                    )
                    visualize.save_picture(pictures / f"{source.name(index)}.png", drawing)
            bar.update(int((batch["index"] >= 0).sum()))
    seconds = time.perf_counter() - started
    if processes > 1:  # as int32 halves: JAX keeps no int64 unless told
        halves = multihost_utils.process_allgather(confusion.view(np.int32))
        confusion = np.ascontiguousarray(halves).view(np.int64).sum(0)
    return {
        **metrics.scores(confusion),
        "confusion": confusion.tolist(),
        "pictures": count,
        "images_per_second": count / seconds,
    }


def window_starts(side: int, window: int, stride: int) -> list[int]:
    """First pixels of the windows that cover a side; the last one is moved back inside."""
    count = max(side - window + stride - 1, 0) // stride + 1
    return [max(min(i * stride, side - window), 0) for i in range(count)]


def _logits(
    model: CCNet,
    variables: Any,
    x: jax.Array,
    window: tuple[int, int] | None,
    stride: tuple[int, int] | None,
) -> jax.Array:
    """The network's logits [B, h, w, classes] for pictures x [B, h, w, 3], from the whole or from windows.

    Where windows overlap, their logits are averaged. A window larger than the picture is cut to it.
    """
    if window is None:
        return _network(model, variables, x)
    size = x.shape[1:3]
    window = tuple(map(min, window, size))
    tops, lefts = map(window_starts, size, window, stride)
    total = jnp.zeros((*x.shape[:3], model.num_classes), device=x.sharding)
    for top, left in itertools.product(tops, lefts):
        total = _add_at(total, _network(model, variables, _cut(x, top, left, window)), top, left)
    # a pixel's windows are those over its row times those over its column
    rows, columns = map(_windows_over, size, window, (tops, lefts))
    return _divided(total, rows, columns)


def _windows_over(side: int, window: int, starts: list[int]) -> np.ndarray:
    """How many of the windows lie over each pixel of a side, float32 [side]."""
    pixel, first = np.arange(side)[:, None], np.array(starts)
    return ((first <= pixel) & (pixel < first + window)).sum(1).astype(np.float32)


# The steps of a prediction are programs of their own, so that the network's, slow to compile, does not depend
# on the size of the pictures that windows are cut from, nor on the size to which logits are upsampled.


@functools.partial(jax.jit, static_argnames="model")
def _network(model: CCNet, variables: Any, x: jax.Array) -> jax.Array:
    return model.apply(variables, x)[0]


@functools.partial(jax.jit, static_argnames="size")
def _shown(images: jax.Array, size: tuple[int, int], mirror: jax.Array) -> jax.Array:
    """float32 of `size`, as OpenCV resizes, mirrored if `mirror`."""
    x = resize_bilinear(images.astype(jnp.float32), size, align_corners=False)
    return jnp.where(mirror, x[:, :, ::-1], x)


@functools.partial(jax.jit, static_argnames=("model", "size"))
def _upsampled(model: CCNet, logits: jax.Array, size: tuple[int, int]) -> jax.Array:
    return model.upsample(logits, size)


@functools.partial(jax.jit, static_argnames="model", donate_argnames="total")
def _add_probabilities(model: CCNet, total: jax.Array, logits: jax.Array, mirror: jax.Array) -> jax.Array:
    probabilities = jax.nn.softmax(model.upsample(logits, total.shape[1:3]))
    return total + jnp.where(mirror, probabilities[:, :, ::-1], probabilities)


@jax.jit
def _largest(scores: jax.Array) -> jax.Array:
    return scores.argmax(-1).astype(jnp.uint8)


@functools.partial(jax.jit, static_argnames="window")
def _cut(x: jax.Array, top: jax.Array, left: jax.Array, window: tuple[int, int]) -> jax.Array:
    return jax.lax.dynamic_slice(x, (0, top, left, 0), (x.shape[0], *window, x.shape[3]))


@functools.partial(jax.jit, donate_argnames="total")
def _add_at(total: jax.Array, part: jax.Array, top: jax.Array, left: jax.Array) -> jax.Array:
    there = jax.lax.dynamic_slice(total, (0, top, left, 0), part.shape)
    return jax.lax.dynamic_update_slice(total, there + part, (0, top, left, 0))


@functools.partial(jax.jit, donate_argnames="total")
def _divided(total: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    return total / (rows[:, None, None] * columns[:, None])
