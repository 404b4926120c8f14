"""A small CCNet on the built-in `streets` scenes: minutes on a laptop's CPU.

    python -m ccnet_jax.train --config demo
    python -m ccnet_jax.train --config demo --config.model.context=none

The second has no context module, and cannot tell the four context classes apart. The scores of both, with
three seeds, are in README.md.
"""

import ml_collections

from ccnet_jax.config import default


def get_config() -> ml_collections.ConfigDict:
    """ResNet-10 of an eighth of the width, whole 192x96 images."""
    config = default()
    config.steps = 1500
    config.batch_size = 4
    config.eval_every = 500
    config.eval_batch_size = 10
    config.checkpoint_every = 500
    config.data.name = "streets"
    config.model.depth = 10
    config.model.width = 0.125
    config.optimizer.learning_rate = 0.3
    return config
