"""Testing as papers do: the whole picture at once, or the mean over scales and flips; and the scores."""

import functools
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tqdm
from jax.experimental import multihost_utils

from ccnet_jax import metrics, sharding, visualize
from ccnet_jax.data import pipeline
from ccnet_jax.data.files import Source
from ccnet_jax.models.ccnet import FLAVOURS, CCNet
from ccnet_jax.models.layers import resize_bilinear

# The ratios of "ms + flip" testing.
SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
DRAWN = 8  # pictures an evaluation draws
_SMALLEST = 32  # pixels a side; what the network takes at least

Predict = Callable[[Any, jax.Array], jax.Array]


def whole_image(model: CCNet) -> Predict:
    """A compiled (variables, images uint8 [B, H, W, 3]) -> predicted classes uint8 [B, H, W]."""

    @jax.jit
    def predict(variables: Any, images: jax.Array) -> jax.Array:
        logits, _ = model.apply(variables, images)
        return logits.argmax(-1).astype(jnp.uint8)

    return predict


def multi_scale_flip(model: CCNet, scales: tuple[float, ...] = SCALES) -> Predict:
    """Like `whole_image`, from probabilities averaged over the scales, each as it is and mirrored.

    Pictures are resized bilinearly on the device, probabilities are averaged at the pictures' size.
    One program is compiled for each size and scale.
    """

    @functools.partial(jax.jit, static_argnames="scale", donate_argnames="total")
    def add(total: jax.Array, variables: Any, images: jax.Array, scale: float) -> jax.Array:
        return total + _probabilities(model, variables, images, scale)

    def predict(variables: Any, images: jax.Array) -> jax.Array:
        total = jnp.zeros((*images.shape[:3], model.num_classes), device=images.sharding)
        for scale in scales:
            total = add(total, variables, images, scale=scale)
        return total.argmax(-1).astype(jnp.uint8)

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
      predict: from `whole_image` or `multi_scale_flip`.
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


def _probabilities(model: CCNet, variables: Any, images: jax.Array, scale: float) -> jax.Array:
    """Softmax [B, H, W, classes] at one scale, the mean of the picture's and its mirror image's.

    Pictures are resized as OpenCV does, logits back as the flavour upsamples them.
    """
    size = images.shape[1:3]
    scaled = [max(round(side * scale), _SMALLEST) for side in size]
    x = resize_bilinear(images.astype(jnp.float32), scaled, align_corners=False)
    mean = 0
    for mirror in (False, True):
        logits, _ = model.apply(variables, x[:, :, ::-1] if mirror else x)
        logits = resize_bilinear(logits, size, FLAVOURS[model.flavour].align_corners)
        probabilities = jax.nn.softmax(logits)
        mean = mean + 0.5 * (probabilities[:, :, ::-1] if mirror else probabilities)
    return mean
