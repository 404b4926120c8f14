"""Cross-entropy over pixels, with an ignore label and online hard example mining (OHEM)."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from ccnet_jax.labels import VOID
from ccnet_jax.settings import setting

Loss = Callable[[jax.Array, jax.Array], jax.Array]  # (logits [B, H, W, classes], labels [B, H, W]) -> loss []


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """`config.loss`: what training minimizes."""

    name: str = setting(
        "cross_entropy",
        "loss of the main head: `cross_entropy`, or `ohem`, which counts hard pixels only",
        choices=lambda: LOSSES,
        local=True,
        old_name="ohem",
        old_values={False: "cross_entropy", True: "ohem"},
    )
    auxiliary_weight: float = setting(0.4, "weight of the auxiliary head's cross-entropy", at_least=0)
    class_weights: tuple[float, ...] | None = setting(
        None, "weight of each class; None weighs all the same", at_least=0, before=None
    )
    label_smoothing: float = setting(
        0.0, "share of the target that is spread over all classes", at_least=0, below=1, before=0.0
    )
    ohem_threshold: float = setting(
        0.7, "pixels whose true class has at most this probability are hard", at_least=0, at_most=1
    )
    ohem_min_kept: int = setting(
        100_000, "pixels of each picture that count at the least, in `ohem`", at_least=0
    )

    def complaints(self) -> list[str]:
        """Sentences about settings that do not go together."""
        return []


def pixel_losses(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Cross-entropy of each pixel, and which pixels count.

    Args:
      logits: [..., classes] in float32.
      labels: [...] integer; 255 is ignored.

    Returns:
      losses [...] in float32, 0 where ignored; valid [...] in bool.
    """
    valid = labels != VOID
    # A product with the one-hot labels, not a gather: its gradient is a product too, not a scatter.
    one_hot = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    losses = jax.nn.logsumexp(logits, -1) - (logits * one_hot).sum(-1)
    return jnp.where(valid, losses, 0), valid


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean over the batch's valid pixels, 0 where there is none. Shapes as in `pixel_losses`."""
    losses, valid = pixel_losses(logits, labels)
    return losses.sum() / jnp.maximum(valid.sum(), 1)


def ohem_cross_entropy(
    logits: jax.Array, labels: jax.Array, threshold: float = 0.7, min_kept: int = 100_000
) -> jax.Array:
    """Mean over the hard pixels: those whose true class has a probability of at most `threshold`.

    Where fewer than `min_kept` pixels are that hard, the threshold rises until so many are kept (or
    all there are). Selection is over the whole (global) batch and carries no gradient.

    Args:
      logits: [B, H, W, classes] in float32.
      labels: [B, H, W] integer; 255 is ignored.
      threshold: of the true class's probability, 0 to 1.
      min_kept: pixels kept at the least, for each picture of the batch.
    """
    losses, valid = pixel_losses(logits, labels)
    probability = jnp.where(valid, jnp.exp(-losses), jnp.inf)
    probability = jax.lax.stop_gradient(probability)
    kept = jnp.minimum(min_kept * labels.shape[0], valid.sum())
    hardest = jnp.sort(probability.ravel())[jnp.maximum(kept, 1) - 1]
    hard = valid & (probability <= jnp.maximum(threshold, hardest))
    return (losses * hard).sum() / jnp.maximum(hard.sum(), 1)


# Functions config -> loss.
LOSSES: dict[str, Callable[[LossConfig], Loss]] = {
    "cross_entropy": lambda config: cross_entropy,
    "ohem": lambda config: functools.partial(
        ohem_cross_entropy, threshold=config.ohem_threshold, min_kept=config.ohem_min_kept
    ),
}
