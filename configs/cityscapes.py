"""Cityscapes, 19 classes: the paper's recipe, and mmsegmentation's in all its published variants.

    python -m ccnet_jax.train --config cityscapes --config.data.dir=/path/to/cityscapes \
        --config.pretrained=/path/to/backbone.safetensors
    python -m ccnet_jax.train --config cityscapes:mmseg-r50-769x769-80k --config.data.dir=...

`ccnet_jax/data/datasets/cityscapes.py` says how the folder must lie. The first is the paper's: 79.8 % mIoU
on val (its Table 3; OHEM and the number of steps are those of its authors' code). `VARIANTS` lists the others
and the scores that were published; all start from ImageNet weights, without which (`pretrained` not set) they
do not reach them. None has been trained here to the end yet.
"""

import ml_collections

from ccnet_jax.config.recipes import mmseg, official

# NAME: (recipe, depth, crop, steps, published mIoU on val, the same with ms + flip)
VARIANTS = {
    "official-r101-769x769-60k": (official, 101, (769, 769), 60_000, 79.8, 81.3),
    "official-r50-769x769-60k": (official, 50, (769, 769), 60_000, 78.5, None),
    "mmseg-r50-512x1024-40k": (mmseg, 50, (512, 1024), 40_000, 77.76, 78.87),
    "mmseg-r101-512x1024-40k": (mmseg, 101, (512, 1024), 40_000, 76.35, 78.19),
    "mmseg-r50-769x769-40k": (mmseg, 50, (769, 769), 40_000, 78.46, 79.93),
    "mmseg-r101-769x769-40k": (mmseg, 101, (769, 769), 40_000, 76.94, 78.62),
    "mmseg-r50-512x1024-80k": (mmseg, 50, (512, 1024), 80_000, 79.03, 80.16),
    "mmseg-r101-512x1024-80k": (mmseg, 101, (512, 1024), 80_000, 78.87, 79.90),
    "mmseg-r50-769x769-80k": (mmseg, 50, (769, 769), 80_000, 79.29, 81.08),
    "mmseg-r101-769x769-80k": (mmseg, 101, (769, 769), 80_000, 79.45, 80.66),
}


def get_config(variant: str = "official-r101-769x769-60k") -> ml_collections.ConfigDict:
    """A variant by its name: RECIPE-BACKBONE-CROP-STEPS.

    mmsegmentation tests its crops of 769x769 in sliding windows and aligns the corners of their logits; those
    of 512x1024 it tests on whole images.
    """
    recipe, depth, crop, steps, *_ = VARIANTS[variant]
    config = recipe()
    config.steps = steps
    config.data.name = "cityscapes"
    config.data.crop = crop
    config.model.depth = depth
    if recipe is mmseg:
        config.data.resize = (2048, 1024)
    if recipe is mmseg and crop == (769, 769):
        config.data.resize = (2049, 1025)
        config.eval_window, config.eval_stride = (769, 769), (513, 513)
        config.model.align_corners = True
    return config
