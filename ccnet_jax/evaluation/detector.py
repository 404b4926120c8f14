"""Mask R-CNN in testing, compiled."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Num

from ccnet_jax.common.devices import compiler_options
from ccnet_jax.models.detection.config import DetectionConfig
from ccnet_jax.models.detection.mask_rcnn import Detections, MaskRCNN

# (variables, images uint8 [B, H, W, 3], (height, width) of each image [B, 2]) -> the detections
Detect = Callable[[Any, jax.Array, jax.Array], Detections]


def detect(
    network: MaskRCNN,
    config: DetectionConfig,
    variables: Any,
    images: Num[Array, "B H W 3"],
    size: Num[Array, "B 2"] | None = None,
) -> Detections:
    """The objects, with the settings of testing: proposals, lowest score, number of detections.

    `size` is the (height, width) of each image; None where each fills its array.
    """
    if size is None:
        size = jnp.broadcast_to(jnp.array(images.shape[1:3]), (len(images), 2))
    apply: Callable[..., Any] = network.apply
    before = after = config.test_proposals
    return apply(variables, images, size, before, after, config.lowest_score, count=config.detections)


@functools.cache
def detector(network: MaskRCNN, config: DetectionConfig) -> Detect:
    """`detect`, compiled once for all who ask."""
    return jax.jit(functools.partial(detect, network, config), compiler_options=compiler_options())
