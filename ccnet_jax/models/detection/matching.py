"""Which boxes stand for which objects, and which of them training looks at."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Int32, PRNGKeyArray

from ccnet_jax.models.detection.boxes import overlaps

# What `match_boxes` says of a box that stands for no object.
BACKGROUND = -1
IGNORED = -2

_ROUNDING = 1e-6  # of two overlaps in float32 that are the same


def match_boxes(
    boxes: Float32[Array, "n 4"],
    objects: Float32[Array, "m 4"],
    used: Bool[Array, " m"],
    high: float,
    low: float,
    every_object: bool,
) -> Int32[Array, " n"]:
    """The object that each box stands for, `BACKGROUND` or `IGNORED`.

    A box stands for the object that it overlaps most, if their intersection over union is `high` or more. It
    is background if no object reaches `low`, and ignored between.

    Args:
      boxes: anchors or proposals.
      objects: of the image; only the places that are `used`.
      used: which objects are valid.
      high, low: 0 to 1.
      every_object: whether the boxes that overlap an object most stand for the object they overlap most,
        however little that is.
    """

    # one object at a time: a table of all anchors and all objects would not be small
    def look_at(
        best: tuple[jax.Array, jax.Array, jax.Array], entry: tuple[jax.Array, jax.Array, jax.Array]
    ) -> tuple[tuple[jax.Array, jax.Array, jax.Array], None]:
        overlap, number, is_best = best
        i, box, valid = entry
        of_this = jnp.where(valid, overlaps(boxes, box[None])[:, 0], -1)
        number = jnp.where(of_this > overlap, i, number)
        most = of_this.max()
        # not those that equal it: a compiled program may compute the overlaps twice, rounded otherwise
        is_best |= (of_this >= most * (1 - _ROUNDING)) & (most > 0)
        return (jnp.maximum(overlap, of_this), number, is_best), None

    count = len(boxes)
    start = (jnp.zeros(count), jnp.zeros(count, jnp.int32), jnp.zeros(count, bool))
    entries = (jnp.arange(len(objects), dtype=jnp.int32), objects, used)
    (overlap, number, is_best), _ = jax.lax.scan(look_at, start, entries)
    found = jnp.where(overlap < low, BACKGROUND, jnp.where(overlap < high, IGNORED, number))
    return jnp.where(is_best, number, found) if every_object else found


def sample_boxes(
    match: Int32[Array, " n"], key: PRNGKeyArray, count: int, positive_fraction: float
) -> tuple[Int32[Array, " count"], Bool[Array, " count"]]:
    """A random choice of boxes to train on.

    At most `positive_fraction` of `count` stand for objects; background fills the rest, as far as there is
    enough of it.

    Args:
      match: from `match_boxes`.
      key: of the draw.
      count: the number of boxes to choose.
      positive_fraction: 0 to 1.

    Returns:
      The boxes' places, positives first, and which of them were chosen: the others fill the list up.
    """
    n = len(match)
    priority = jax.random.uniform(key, (n,))
    most = min(round(count * positive_fraction), n)
    positives = jnp.where(match >= 0, priority, -1.0)
    negatives = jnp.where(match == BACKGROUND, priority, -1.0)
    positive_values, positive_places = jax.lax.top_k(positives, most)
    negative_values, negative_places = jax.lax.top_k(negatives, min(count, n))
    places = jnp.concatenate([positive_places, negative_places])
    chosen = jnp.concatenate([positive_values, negative_values]) >= 0
    # chosen ones first, in this order; then as many as are asked for
    order = jnp.argsort(~chosen, stable=True)[:count]
    places, chosen = places[order], chosen[order]
    missing = count - len(places)
    return jnp.pad(places, (0, missing)).astype(jnp.int32), jnp.pad(chosen, (0, missing))
