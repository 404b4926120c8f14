"""Cross-entropy over pixels: class weights, label smoothing, online hard example mining (OHEM)."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Integer

from ccnet_jax.common.fields import setting
from ccnet_jax.common.labels import VOID
from ccnet_jax.training.means import Mean
from ccnet_jax.training.upsampled import UpsampledLogits

# (logits, labels [B, H, W]) -> the mean that is the loss
Loss = Callable[[UpsampledLogits, Integer[Array, "B H W"]], Mean]
AVERAGES = ("labelled", "all")


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """`config.loss`: what training minimizes."""

    name: str = setting(
        "cross_entropy",
        "loss of the main head: `cross_entropy`, or `ohem`, which counts hard pixels only",
        choices=lambda: LOSSES,
        local=True,
    )
    average_over: str = setting(
        "labelled",
        "pixels by whose number the sum of the losses is divided: `labelled`, as in the authors' code, or "
        "`all`, void ones too, as in mmsegmentation",
        choices=AVERAGES,
        before="labelled",
    )
    auxiliary_weight: float = setting(0.4, "weight of the auxiliary head's cross-entropy", at_least=0)
    class_weights: tuple[float, ...] | None = setting(
        None, "weight of each class; None weighs all the same", at_least=0, before=None
    )
    label_smoothing: float = setting(
        0.0, "fraction of the target that is spread over all classes", at_least=0, below=1, before=0.0
    )
    ohem_threshold: float = setting(
        0.7, "pixels whose true class has at most this probability are hard, in `ohem`", at_least=0, at_most=1
    )
    ohem_min_kept: int = setting(
        100_000, "pixels of each image that count at the least, in `ohem`", at_least=0
    )

    def problems(self) -> list[str]:
        """Messages about settings that do not go together."""
        if self.class_weights is None or any(self.class_weights):
            return []
        return ["config.loss.class_weights are all 0, so that no pixel counts; make some of them larger"]

    def problems_for(self, num_classes: int) -> list[str]:
        """Messages about settings that do not fit a data set of `num_classes` classes."""
        if self.class_weights is None or len(self.class_weights) == num_classes:
            return []
        return [
            f"config.loss.class_weights has {len(self.class_weights)} numbers, but the data set has "
            f"{num_classes} classes; give one number for each class, or None"
        ]


def pixel_losses(
    logits: Float[Array, "*pixels classes"], labels: Integer[Array, "*pixels"]
) -> tuple[Float[Array, "*pixels"], Bool[Array, "*pixels"]]:
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


def weighted_pixel_losses(
    logits: Float[Array, "*pixels classes"],
    labels: Integer[Array, "*pixels"],
    class_weights: tuple[float, ...] | None,
    label_smoothing: float,
) -> tuple[Float[Array, "*pixels"], Float[Array, "*pixels"] | Bool[Array, "*pixels"]]:
    """Cross-entropy of each pixel with class weights w and label smoothing s, as PyTorch defines both.

    With C classes and probabilities p, the loss of a pixel of class y is

        (1 - s) * w[y] * -log p[y]  +  s / C * sum_c w[c] * -log p[c]

    Args:
      logits, labels: see `pixel_losses`.
      class_weights: one number for each class; None weighs all classes the same.
      label_smoothing: fraction of the target that is spread over all classes.

    Returns:
      losses [...], 0 where ignored; w[y], the weight of each pixel in the mean, [...], 0 where ignored.
    """
    losses, valid = pixel_losses(logits, labels)
    if class_weights is None and not label_smoothing:
        return losses, valid
    classes = logits.shape[-1]
    weights = jnp.ones(classes) if class_weights is None else jnp.array(class_weights, jnp.float32)
    pixel_weights = (jax.nn.one_hot(labels, classes) * weights).sum(-1)
    losses = pixel_weights * losses
    if label_smoothing:
        spread = -(jax.nn.log_softmax(logits) * weights).sum(-1) / classes
        losses = (1 - label_smoothing) * losses + label_smoothing * jnp.where(valid, spread, 0)
    return losses, pixel_weights


def cross_entropy(
    logits: UpsampledLogits,
    labels: Integer[Array, "B H W"],
    class_weights: tuple[float, ...] | None = None,
    label_smoothing: float = 0.0,
    average_over: str = "labelled",
) -> Mean:
    """Mean over the batch's pixels.

    Args:
      logits: at any size.
      labels: [B, H, W] integer; 255 is ignored.
      class_weights, label_smoothing: see `weighted_pixel_losses`.
      average_over: what the sum of the losses is divided by. "labelled": the sum of the labelled pixels'
        class weights, as in PyTorch's `cross_entropy`. "all": the number of all pixels, as in
        mmsegmentation's CrossEntropyLoss(avg_non_ignore=False); where there are class
        weights, it divides as PyTorch does.
    """
    weighted = functools.partial(
        weighted_pixel_losses, class_weights=class_weights, label_smoothing=label_smoothing
    )
    losses, weights = logits.each_pixel(weighted, labels)
    if average_over == "labelled":
        return Mean(losses.sum(), weights.sum())
    return Mean(losses.sum(), _weight_of_all(weights, class_weights))


def ohem_cross_entropy(
    logits: UpsampledLogits,
    labels: Integer[Array, "B H W"],
    threshold: float = 0.7,
    min_kept: int = 100_000,
    class_weights: tuple[float, ...] | None = None,
    label_smoothing: float = 0.0,
    average_over: str = "labelled",
) -> Mean:
    """Mean over the hard pixels: those whose true class has a probability of at most `threshold`.

    Where fewer than `min_kept` pixels are that hard, the threshold rises until so many are kept (or
    all there are). Selection is over the whole (global) batch and carries no gradient; where a batch goes
    through the network in parts, the pixels of each part are ranked by themselves. Class weights and label
    smoothing change the losses of the hard pixels, and not which pixels are hard.

    Args:
      logits: at any size.
      labels: [B, H, W] integer; 255 is ignored.
      threshold: of the true class's probability, 0 to 1.
      min_kept: pixels kept at the least, for each image of the batch.
      class_weights, label_smoothing: see `weighted_pixel_losses`.
      average_over: what the sum of the hard pixels' losses is divided by. "labelled": the sum of the hard
        pixels' class weights, as in the authors' code. "all": the number of all pixels, easy and void ones
        too, as in mmsegmentation; where there are class weights, the sum of those of the labelled pixels.
    """

    def of_pixels(
        logits: Float[Array, "*pixels classes"], labels: Integer[Array, "*pixels"]
    ) -> tuple[Array, Array, Array]:
        plain_losses, valid = pixel_losses(logits, labels)
        probability = jnp.where(valid, jnp.exp(-jax.lax.stop_gradient(plain_losses)), jnp.inf)
        return probability, *weighted_pixel_losses(logits, labels, class_weights, label_smoothing)

    probability, losses, weights = logits.each_pixel(of_pixels, labels)
    hard = least_probable(probability, threshold, min_kept * labels.shape[0])
    if average_over == "labelled":
        return Mean((losses * hard).sum(), (weights * hard).sum())
    return Mean((losses * hard).sum(), _weight_of_all(weights, class_weights))


def _weight_of_all(weights: Array, class_weights: tuple[float, ...] | None) -> Array:
    """What "all" divides by: the number of pixels, or of class weights the sum of the labelled pixels'."""
    return jnp.asarray(weights.size) if class_weights is None else weights.sum()


def least_probable(
    probability: Float[Array, "*pixels"], threshold: float, min_kept: int
) -> Bool[Array, "*pixels"]:
    """Which pixels have a probability of at most `threshold`, and at the least the `min_kept` least probable.

    Pixels of an infinite probability are never among them. The k-th pixel is found by comparing probabilities
    with the k-th of them. A program that computes them a second time for that, rounded otherwise, would lose
    the pixel: so they are the operand of a conditional, which is computed once, and both sides of the
    comparison read it. Where enough pixels are below the threshold nothing is sorted.
    """
    kept = jnp.minimum(min_kept, jnp.isfinite(probability).sum())

    def at_least_kept(probability: Array) -> Array:
        kth = jnp.sort(probability.ravel())[kept - 1]
        return probability <= jnp.maximum(threshold, kth)

    are_enough = (probability <= threshold).sum() >= kept
    return jax.lax.cond(are_enough, lambda probability: probability <= threshold, at_least_kept, probability)


def _cross_entropy(config: LossConfig) -> Loss:
    return functools.partial(
        cross_entropy,
        class_weights=config.class_weights,
        label_smoothing=config.label_smoothing,
        average_over=config.average_over,
    )


def _ohem(config: LossConfig) -> Loss:
    return functools.partial(
        ohem_cross_entropy,
        threshold=config.ohem_threshold,
        min_kept=config.ohem_min_kept,
        class_weights=config.class_weights,
        label_smoothing=config.label_smoothing,
        average_over=config.average_over,
    )


# Functions config -> loss.
LOSSES: dict[str, Callable[[LossConfig], Loss]] = {
    "cross_entropy": _cross_entropy,
    "ohem": _ohem,
}
