"""The loss of a network that labels every pixel."""

from collections.abc import Callable

import jax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from ccnet_jax.models.ccnet import CCNet
from ccnet_jax.training.losses import LOSSES, LossConfig
from ccnet_jax.training.step import Batch, Metrics
from ccnet_jax.training.upsampled import UpsampledLogits


def make_loss(network: CCNet, config: LossConfig) -> Callable[..., tuple[jax.Array, tuple[Metrics, PyTree]]]:
    """The training loss: the main head's + auxiliary_weight * the auxiliary head's cross-entropy.

    Raises:
      ValueError: the number of class weights is not that of the classes.
    """
    if complaints := config.complaints_for(network.num_classes):
        raise ValueError(complaints[0])
    main_loss, auxiliary_loss = LOSSES[config.name](config), LOSSES["cross_entropy"](config)

    def loss_fn(
        params: PyTree, batch_stats: PyTree, batch: Batch, key: PRNGKeyArray
    ) -> tuple[Float[Array, ""], tuple[Metrics, PyTree]]:
        """-> loss [], (metrics, the new batch_stats); the batch has "image" and "label" [B, H, W]."""
        (logits, auxiliary_logits), updated = network.apply(
            {"params": params, "batch_stats": batch_stats},
            batch["image"],
            train=True,
            upsample=False,
            rngs={"dropout": key},
            mutable=["batch_stats"],
        )
        main = main_loss(UpsampledLogits(logits, network.aligned), batch["label"])
        auxiliary = auxiliary_loss(UpsampledLogits(auxiliary_logits, network.aligned), batch["label"])
        total = main + config.auxiliary_weight * auxiliary
        metrics = {"loss": total, "main_loss": main, "auxiliary_loss": auxiliary}
        return total, (metrics, updated["batch_stats"])

    return loss_fn
