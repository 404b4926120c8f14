"""The settings of the network."""

import dataclasses

import jax.numpy as jnp

from ccnet_jax.common.fields import setting
from ccnet_jax.common.kernels import IMPLEMENTATIONS
from ccnet_jax.models.backbones import BACKBONES, all_depths
from ccnet_jax.models.backbones.resnet import STEMS
from ccnet_jax.models.ccnet import CCNet
from ccnet_jax.models.contexts import CONTEXTS
from ccnet_jax.models.flavours import FLAVOURS
from ccnet_jax.models.layers import REMAT

MOST_LOOPS = 64  # of RCCA; the paper has up to 3


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """`config.model`: backbone, context module and how they are computed."""

    backbone: str = setting("resnet", "backbone", choices=BACKBONES, before="resnet")
    depth: int = setting(50, "layers of the backbone", choices=all_depths)
    flavour: str = setting(
        "mmseg", "`official`, the authors' network, or `mmseg`, mmsegmentation's", choices=FLAVOURS
    )
    stem: str = setting(
        "deep",
        "first layers of the ResNet: `deep` (three 3x3 convolutions) or torchvision's `7x7`",
        choices=STEMS,
        before="deep",
    )
    width: float = setting(1.0, "multiplier of every channel count", above=0, at_most=16)
    context: str = setting("rcca", "context module", choices=CONTEXTS)
    loops: int = setting(2, "loops of RCCA", at_least=1, at_most=MOST_LOOPS)
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
    remat: str = setting(
        "none",
        "what the backward pass computes again instead of keeping it: `none`; `norms`, norms and "
        "activations; `blocks`, the backbone's blocks and RCCA's projections too",
        choices=REMAT,
        resumable=True,
    )

    def problems(self) -> list[str]:
        """Messages about settings that do not go together."""
        depths = BACKBONES[self.backbone].depths
        if self.depth in depths:
            return []
        return [
            f"config.model.depth={self.depth} does not exist for config.model.backbone={self.backbone!r}; "
            f"choose one of {', '.join(map(str, depths))}"
        ]


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
        backbone=config.backbone,
    )
