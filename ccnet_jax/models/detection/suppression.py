"""Non-maximum suppression with a fixed number of boxes."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32

from ccnet_jax.models.detection.boxes import overlaps


def not_suppressed(
    boxes: Float32[Array, "n 4"], scores: Float32[Array, " n"], used: Bool[Array, " n"], threshold: float
) -> Bool[Array, " n"]:
    """Which boxes greedy non-maximum suppression keeps.

    From the highest score to the lowest, a box is kept if its intersection over union with every box that
    was kept before is at most `threshold`.

    Args:
      boxes: in any order.
      scores: of the boxes.
      used: which boxes there are; the others are not kept and suppress nothing.
      threshold: 0 to 1.
    """
    order = jnp.argsort(jnp.where(used, -scores, jnp.inf), stable=True)
    boxes, used = boxes[order], used[order]
    earlier = jnp.tri(len(boxes), k=-1, dtype=bool).T
    suppresses = (overlaps(boxes, boxes) > threshold) & earlier  # [better, worse]

    # Each round decides at least the best box that is not decided: kept boxes whose better ones are decided
    # stay as they are. Chains of boxes that suppress one another are short, and so is the loop.
    def next_round(state: tuple[Bool[Array, " n"], Bool[Array, ""]]) -> tuple[jax.Array, jax.Array]:
        kept, _ = state
        decided = used & ~(suppresses & kept[:, None]).any(0)
        return decided, (decided != kept).any()

    kept, _ = jax.lax.while_loop(lambda state: state[1], next_round, (used, jnp.array(True)))
    return jnp.zeros_like(kept).at[order].set(kept)
