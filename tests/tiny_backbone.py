"""A backbone of two layers, for tests of what happens around a network: it compiles fast.

The file is for `--parts`; in a test's own process the fixture of the same name registers it.
"""

import flax.linen as nn

from ccnet_jax.models.backbones import BACKBONES, Backbone
from ccnet_jax.models.batch_norm import BatchNorm


class Tiny(nn.Module):
    """Patches of 8x8 pixels: projected and normalised, then mixed."""

    channels: int

    @nn.compact
    def __call__(self, x, train):
        x = nn.Conv(self.channels, (8, 8), strides=8, use_bias=False, name="patches")(x)
        stage3 = nn.relu(BatchNorm(not train, name="norm")(x))
        return stage3, nn.relu(nn.Dense(self.channels, name="mix")(stage3))


BACKBONE = Backbone(depths=(2,), build=lambda settings, name: Tiny(int(256 * settings.width), name=name))
BACKBONES["tiny"] = BACKBONE
