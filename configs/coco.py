"""Mask R-CNN on COCO: the scores are box AP and mask AP on val2017 (the paper's Table 7).

    python -m ccnet_jax.train --config coco:r50-rcca --config.data.dir=/path/to/coco \
        --config.pretrained=resnet50.safetensors

`ccnet_jax/data/datasets/coco.py` says how the folder must lie. Training starts from ImageNet weights in
torchvision's layout. For another data set in COCO's format `--config.data.train_split` and `eval_split` name
its files, annotations/instances_SPLIT.json.
"""

import ml_collections

from ccnet_jax.config import default

# NAME: (depth, context, published box AP, published mask AP)
VARIANTS = {
    "r50-none": (50, "none", 38.2, 34.8),
    "r50-nonlocal": (50, "nonlocal_block", 39.0, 35.5),
    "r50-rcca": (50, "rcca", 39.3, 36.1),
    "r101-none": (101, "none", 40.1, 36.2),
    "r101-nonlocal": (101, "nonlocal_block", 40.8, 37.1),
    "r101-rcca": (101, "rcca", 41.0, 37.3),
}


def get_config(variant: str = "r50-rcca") -> ml_collections.ConfigDict:
    """The "1x" recipe of the open code that the paper used.

    800/1333 resize and mirroring, 16 images a step, SGD with momentum 0.9 and weight decay 1e-4 (biases:
    twice the learning rate, no decay), learning rate 0.02 after 500 steps from a third of it, a tenth of it
    after 60,000 steps and again after 80,000 of 90,000. The backbone's norms, its stem and its first stage
    are kept.
    """
    depth, context, *_ = VARIANTS[variant]
    config = default()
    config.task = "instance"
    config.steps = 90_000
    config.batch_size = 16
    config.eval_every = 10_000
    config.data.name = "coco"
    config.data.train_split = "train2017"
    config.data.eval_split = "val2017"
    config.data.resize = (1333, 800)
    config.data.flip = True
    config.data.workers = 8
    config.model.depth = depth
    config.model.stem = "7x7"
    config.model.context = context
    config.optimizer.schedule = "multi_step"
    config.optimizer.learning_rate = 0.02
    config.optimizer.milestones = (60_000, 80_000)
    config.optimizer.warmup_steps = 500
    config.optimizer.warmup_from = 1 / 3
    config.optimizer.weight_decay = 1e-4
    config.optimizer.decay_norms_and_biases = False
    config.optimizer.bias_learning_rate = 2.0
    return config
