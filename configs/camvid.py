"""CamVid, 11 classes at 480x360: a small real data set for a first run on real pictures.

    python -m ccnet_jax.train --config camvid --config.data.dir=/path/to/camvid

`ccnet_jax/data/datasets/camvid.py` says how the folder must lie. From random weights; no number measured yet.
"""

import ml_collections

from ccnet_jax.recipes import mmseg


def get_config() -> ml_collections.ConfigDict:
    """ResNet-50, mmsegmentation's flavour and recipe, 360x480 crops."""
    config = mmseg()
    config.steps = 20_000
    config.log_every = 10
    config.eval_every = 1000
    config.eval_batch_size = 8
    config.data.name = "camvid"
    config.data.crop = (360, 480)
    config.data.workers = 0
    config.optimizer.learning_rate = 0.02
    config.loss.ohem_min_kept = 100_000
    return config
