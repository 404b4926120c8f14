"""Mask R-CNN on the built-in `streets` scenes as instances: minutes on a laptop's CPU.

    python -m ccnet_jax.train --config streets_instances
    python -m ccnet_jax.train --config streets_instances:none
    python -m ccnet_jax.train --config streets_instances:nonlocal

Only the signal on the other side of an image tells whether a vehicle waits or moves. docs/results.md has the
AP of each class with each context module.
"""

import ml_collections

from ccnet_jax.config import default

# NAME: (published box AP, published mask AP)
VARIANTS: dict[str, tuple[None, None]] = {
    "rcca": (None, None),
    "none": (None, None),
    "nonlocal": (None, None),
}


def get_config(variant: str = "rcca") -> ml_collections.ConfigDict:
    """ResNet-10 of an eighth of the width with a feature pyramid, whole 192x96 images, random weights."""
    config = default()
    config.task = "instance"
    config.data.name = "streets_instances"
    config.batch_size = 4
    config.steps = 2000
    config.eval_every = 1000
    config.eval_batch_size = 10
    config.checkpoint_every = 250
    config.model.depth = 10
    config.model.width = 0.125
    config.model.context = "nonlocal_block" if variant == "nonlocal" else variant
    config.optimizer.learning_rate = 0.05
    config.optimizer.warmup_steps = 100
    config.optimizer.clip_norm = 10.0
    config.detection.frozen = False
    config.detection.objects = 16
    config.detection.anchor_scale = 4.0
    config.detection.train_proposals = 100
    config.detection.test_proposals = 100
    config.detection.sampled_anchors = 64
    config.detection.sampled_regions = 32
    config.detection.detections = 30
    return config
