"""Boxes (x0, y0, x1, y1) in pixels of the image, and the deltas that turn one box into another."""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float32

# Of a box over its anchor, as a logarithm: an exponential beyond it would be of no use.
_LARGEST_GROWTH = math.log(1000 / 16)

Weights = tuple[float, float, float, float]  # what deltas of (x, y, width, height) are multiplied by


def area(boxes: Float32[Array, "*n 4"]) -> Float32[Array, "*n"]:
    """Width times height; 0 for a box whose corners have changed places."""
    sides = jnp.maximum(boxes[..., 2:] - boxes[..., :2], 0)
    return sides[..., 0] * sides[..., 1]


def overlaps(ones: Float32[Array, "n 4"], others: Float32[Array, "m 4"]) -> Float32[Array, "n m"]:
    """Intersection over union of every box of `ones` with every box of `others`; 0 where both are empty."""
    corner0 = jnp.maximum(ones[:, None, :2], others[None, :, :2])
    corner1 = jnp.minimum(ones[:, None, 2:], others[None, :, 2:])
    common = area(jnp.concatenate([corner0, corner1], -1))
    union = area(ones)[:, None] + area(others)[None] - common
    return jnp.where(union > 0, common / jnp.where(union > 0, union, 1), 0)


def encode_boxes(
    boxes: Float32[Array, "*n 4"], anchors: Float32[Array, "*n 4"], weights: Weights
) -> Float32[Array, "*n 4"]:
    """The deltas that turn anchors into boxes (Girshick et al., R-CNN, equations 6 to 9), times `weights`.

    Boxes and anchors without area give some finite number.
    """
    centres, sides = _centres_and_sides(boxes)
    anchor_centres, anchor_sides = _centres_and_sides(anchors)
    shift = (centres - anchor_centres) / anchor_sides
    growth = jnp.log(sides / anchor_sides)
    return jnp.concatenate([shift, growth], -1) * jnp.array(weights, jnp.float32)


def decode_boxes(
    deltas: Float32[Array, "*#n 4"], anchors: Float32[Array, "*#n 4"], weights: Weights
) -> Float32[Array, "*_ 4"]:
    """The boxes that deltas make of anchors: the inverse of `encode_boxes`."""
    deltas = deltas / jnp.array(weights, jnp.float32)
    sides = anchors[..., 2:] - anchors[..., :2]
    centres = anchors[..., :2] + sides / 2 + deltas[..., :2] * sides
    half = sides * jnp.exp(jnp.minimum(deltas[..., 2:], _LARGEST_GROWTH)) / 2
    return jnp.concatenate([centres - half, centres + half], -1)


def clip_boxes(boxes: Float32[Array, "*n 4"], size: Float32[Array, " 2"]) -> Float32[Array, "*n 4"]:
    """The part of each box that lies in an image of (height, width)."""
    limits = size[jnp.array([1, 0, 1, 0])]
    return jnp.clip(boxes, 0, limits)


def _centres_and_sides(
    boxes: Float32[Array, "*n 4"],
) -> tuple[Float32[Array, "*n 2"], Float32[Array, "*n 2"]]:
    """Centres, and sides of at least a thousandth of a pixel."""
    sides = boxes[..., 2:] - boxes[..., :2]
    return boxes[..., :2] + sides / 2, jnp.maximum(sides, 1e-3)
