"""CamVid, 11 classes at 480x360: a small real data set for a first run on real images.

    python -m ccnet_jax.train --config camvid --config.data.dir=/path/to/camvid
    python -m ccnet_jax.train --config camvid:small --config.data.dir=/path/to/camvid

`ccnet_jax/data/datasets/camvid.py` says how the folder must lie. Both start from random weights. The second
is for a CPU: `experiments/camvid.py` trains it with and without RCCA, and docs/results.md has the scores.
"""

import ml_collections

from ccnet_jax.config.recipes import mmseg

# NAME: (published mIoU on val, the same with ms + flip)
VARIANTS: dict[str, tuple[None, None]] = {"full": (None, None), "small": (None, None)}


def get_config(variant: str = "full") -> ml_collections.ConfigDict:
    """mmsegmentation's flavour and recipe.

    `full` is ResNet-50 on crops of 360x480. `small` is ResNet-18 of a quarter of the width on crops of
    240x320, small enough for a CPU. Its images are not shrunk below the size of the crop, since padding
    would waste the time of a step.
    """
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
    if variant == "small":
        config.steps = 2500
        config.batch_size = 4
        config.eval_every = 500
        config.checkpoint_every = 250
        config.data.crop = (240, 320)
        config.data.scale = (0.67, 1.5)
        config.model.depth = 18
        config.model.width = 0.25
        config.optimizer.learning_rate = 0.1
    return config
