"""Your own images and labels, without any Python.

    python -m ccnet_jax.train --config folder --config.data.dir=/path/to/images

finds `images/{train,val}` and `labels/{train,val}` or another usual layout in the folder; the manual's page
docs/data.md has all of them, and what to set for any other. Small images and few of them train in minutes
on a CPU with --config.model.depth=18 --config.model.width=0.25. No published number.
"""

import ml_collections

from ccnet_jax.config.recipes import mmseg


def get_config() -> ml_collections.ConfigDict:
    """ResNet-50 with mmsegmentation's recipe, 256x256 crops."""
    config = mmseg()
    config.steps = 5000
    config.eval_every = 500
    config.checkpoint_every = 500
    config.data.name = "folder"
    config.data.crop = (256, 256)
    config.data.workers = 2
    return config
