"""The settings of the network."""

import dataclasses

import jax.numpy as jnp

from ccnet_jax.models.ccnet import FLAVOURS, STEMS, CCNet
from ccnet_jax.models.context import CONTEXTS
from ccnet_jax.models.resnet import BLOCKS
from ccnet_jax.settings import setting
from kernels.criss_cross import IMPLEMENTATIONS


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """`config.model`: backbone, context module and how they are computed."""

    depth: int = setting(50, "layers of the ResNet", choices=BLOCKS)
    flavour: str = setting(
        "mmseg", "`official`, the authors' network, or `mmseg`, mmsegmentation's", choices=FLAVOURS
    )
    stem: str = setting(
        "deep",
        "first layers: `deep` (three 3x3 convolutions) or torchvision's `7x7`",
        choices=STEMS,
        before="deep",
    )
    width: float = setting(1.0, "multiplier of every channel count", above=0, at_most=16)
    context: str = setting("rcca", "context module", choices=CONTEXTS)
    loops: int = setting(2, "loops of RCCA", at_least=1, at_most=64)
    align_corners: bool | None = setting(
        None, "how logits are upsampled; None is the flavour's way", before=None
    )
    implementation: str | None = setting(
        None,
        "backend of criss-cross attention; None chooses by device",
        choices=IMPLEMENTATIONS,
        resumable=True,
        local=True,
    )
    remat: bool = setting(
        False, "compute blocks and RCCA's projections again in the backward pass", resumable=True
    )

    def complaints(self) -> list[str]:
        """Sentences about settings that do not go together."""
        return []


def build_network(config: ModelConfig, num_classes: int, dtype: str = "float32") -> CCNet:
    """The network that the settings describe."""
    return CCNet(
        num_classes=num_classes,
        depth=config.depth,
        flavour=config.flavour,
        context=config.context,
        loops=config.loops,
        width=config.width,
        stem=config.stem,
        align_corners=config.align_corners,
        implementation=config.implementation,
        remat=config.remat,
        dtype=jnp.dtype(dtype),
    )
