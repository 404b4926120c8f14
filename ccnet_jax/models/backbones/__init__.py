"""The backbones: one file each, and one line each in `BACKBONES`."""

from ccnet_jax.models.backbones import resnet
from ccnet_jax.models.backbones.settings import Backbone, BackboneSettings

__all__ = ["BACKBONES", "Backbone", "BackboneSettings", "all_depths"]

BACKBONES: dict[str, Backbone] = {
    "resnet": resnet.BACKBONE,
}


def all_depths() -> list[int]:
    """The depths that any of the backbones has."""
    return sorted({depth for backbone in BACKBONES.values() for depth in backbone.depths})
