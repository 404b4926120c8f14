"""What the network looks at, and what it finds: the best boxes of many, in lists of a fixed length."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Int32

from ccnet_jax.models.detection.boxes import Weights, clip_boxes, decode_boxes
from ccnet_jax.models.detection.suppression import not_suppressed

RPN_WEIGHTS: Weights = (1.0, 1.0, 1.0, 1.0)
BOX_WEIGHTS: Weights = (10.0, 10.0, 5.0, 5.0)
_RPN_OVERLAP = 0.7
_SMALLEST_PROPOSAL = 1e-3  # pixels a side
_SMALLEST_DETECTION = 1e-2

Listed = tuple[Float32[Array, "k 4"], Float32[Array, " k"], Bool[Array, " k"]]


def proposals(
    logits: Sequence[Float32[Array, " _"]],
    deltas: Sequence[Float32[Array, "_ 4"]],
    anchors: Sequence[Float32[Array, "_ 4"]],
    size: Float32[Array, " 2"],
    before: int,
    after: int,
) -> tuple[Float32[Array, "after 4"], Bool[Array, " after"]]:
    """The regions of one image that the region proposal network finds most like objects.

    Args:
      logits: of every anchor of every level, that it is an object.
      deltas: that turn each anchor into a box.
      anchors: of every level.
      size: (height, width) of the image, without padding; boxes are cut at its edges.
      before: how many of a level are taken, the best ones, before non-maximum suppression within the level.
      after: how many are taken in the end, the best of all levels.

    Returns:
      Boxes, the best one first, and which of them are valid.
    """
    boxes, scores, used = [], [], []
    for level_logits, level_deltas, level_anchors in zip(logits, deltas, anchors, strict=True):
        score, place = jax.lax.top_k(level_logits, min(before, len(level_logits)))
        box = clip_boxes(
            decode_boxes(level_deltas[place], jnp.asarray(level_anchors)[place], RPN_WEIGHTS), size
        )
        large = ((box[:, 2:] - box[:, :2]) >= _SMALLEST_PROPOSAL).all(-1)
        boxes.append(box)
        scores.append(score)
        used.append(not_suppressed(box, score, large, _RPN_OVERLAP))
    best, _, valid = _best(jnp.concatenate(boxes), jnp.concatenate(scores), jnp.concatenate(used), after)
    return best, valid


def detections(
    logits: Float32[Array, "n classes_and_background"],
    deltas: Float32[Array, "n classes 4"],
    regions: Float32[Array, "n 4"],
    used: Bool[Array, " n"],
    size: Float32[Array, " 2"],
    lowest_score: float,
    overlap: float,
    count: int,
) -> tuple[
    Float32[Array, "count 4"], Int32[Array, " count"], Float32[Array, " count"], Bool[Array, " count"]
]:
    """The objects of one image.

    Args:
      logits: of every region, background first.
      deltas: that turn a region into a box of each class.
      regions: from `proposals`.
      used: which regions are valid.
      size: (height, width) of the image, without padding; boxes are cut at its edges.
      lowest_score: boxes with a lower probability are left out.
      overlap: of two boxes of a class, above which the better one alone is kept.
      count: how many are kept, of all classes together.

    Returns:
      Boxes, classes (0 is the first that is not background), scores, the best one first, and which of them
      are valid.
    """
    scores = jax.nn.softmax(logits, -1)[:, 1:].T
    boxes = jnp.moveaxis(clip_boxes(decode_boxes(deltas, regions[:, None], BOX_WEIGHTS), size), 1, 0)
    large = ((boxes[..., 2:] - boxes[..., :2]) >= _SMALLEST_DETECTION).all(-1)
    candidates = used & (scores > lowest_score) & large

    # one class at a time: their tables of overlaps together would be large
    def of_class(entry: tuple[jax.Array, jax.Array, jax.Array]) -> Listed:
        box, score, valid = entry
        kept = not_suppressed(box, score, valid, overlap)
        return _best(box, score, kept, min(count, len(box)))

    best, best_scores, valid = jax.lax.map(of_class, (boxes, scores, candidates))
    classes = jnp.broadcast_to(jnp.arange(len(best), dtype=jnp.int32)[:, None], valid.shape)
    order, found = _order(best_scores.ravel(), valid.ravel(), count)
    return best.reshape(-1, 4)[order], classes.ravel()[order], best_scores.ravel()[order], found


def _best(
    boxes: Float32[Array, "n 4"], scores: Float32[Array, " n"], used: Bool[Array, " n"], count: int
) -> Listed:
    """The `count` best boxes, their scores, and which of them are valid."""
    order, valid = _order(scores, used, count)
    return boxes[order], scores[order], valid


def _order(
    scores: Float32[Array, " n"], used: Bool[Array, " n"], count: int
) -> tuple[Int32[Array, " count"], Bool[Array, " count"]]:
    """Places of the `count` largest scores that are used, filled up with 0, and which of them are valid."""
    largest, places = jax.lax.top_k(jnp.where(used, scores, -jnp.inf), min(count, len(scores)))
    missing = count - len(places)
    return jnp.pad(places, (0, missing)), jnp.pad(largest > -jnp.inf, (0, missing))
