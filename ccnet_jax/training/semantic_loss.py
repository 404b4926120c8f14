"""The loss of a network that labels every pixel."""

from jaxtyping import PRNGKeyArray, PyTree

from ccnet_jax.models.ccnet import CCNet
from ccnet_jax.training.losses import LOSSES, LossConfig
from ccnet_jax.training.means import Mean
from ccnet_jax.training.step import Batch, Loss
from ccnet_jax.training.upsampled import UpsampledLogits


def make_loss(network: CCNet, config: LossConfig) -> Loss:
    """The training loss: the main head's + auxiliary_weight * the auxiliary head's cross-entropy.

    Raises:
      ValueError: the number of class weights is not that of the classes.
    """
    if problems := config.problems_for(network.num_classes):
        raise ValueError(problems[0])
    main_loss, auxiliary_loss = LOSSES[config.name](config), LOSSES["cross_entropy"](config)

    def means(
        params: PyTree, batch_stats: PyTree, batch: Batch, key: PRNGKeyArray
    ) -> tuple[dict[str, Mean], PyTree]:
        """-> the means of both heads, the new batch_stats; the batch has "image" and "label" [B, H, W]."""
        (logits, auxiliary_logits), updated = network.apply(
            {"params": params, "batch_stats": batch_stats},
            batch["image"],
            train=True,
            upsample=False,
            rngs={"dropout": key},
            mutable=["batch_stats"],
        )
        main = main_loss(UpsampledLogits(logits, network.aligns_corners), batch["label"])
        auxiliary = auxiliary_loss(UpsampledLogits(auxiliary_logits, network.aligns_corners), batch["label"])
        return {"main_loss": main, "auxiliary_loss": auxiliary}, updated["batch_stats"]

    return Loss(means, {"main_loss": 1.0, "auxiliary_loss": config.auxiliary_weight})
