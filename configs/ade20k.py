"""ADE20K, 150 classes: mmsegmentation's recipe in all its published variants, and the paper's.

    python -m ccnet_jax.train --config ade20k --config.data.dir=/path/to/ADEChallengeData2016 \
        --config.pretrained=/path/to/backbone.safetensors
    python -m ccnet_jax.train --config ade20k:mmseg-r50-512x512-80k --config.data.dir=...

`ccnet_jax/data/datasets/ade20k.py` says how the folder must lie. The first is the paper's: 45.22 % mIoU on
val (its Table 6, which does not say how it was tested; we take it for several scales). `VARIANTS` lists the
others and the scores that were published; all start from ImageNet weights, without which (`pretrained` not
set) they do not reach them. None has been trained here to the end yet.
"""

import ml_collections

from ccnet_jax.config.recipes import mmseg, official

# NAME: (recipe, depth, steps, published mIoU on val, the same with ms + flip)
VARIANTS = {
    "official-r101-512x512-160k": (official, 101, 160_000, None, 45.22),
    "official-r50-512x512-160k": (official, 50, 160_000, None, None),
    "mmseg-r50-512x512-80k": (mmseg, 50, 80_000, 41.78, 42.98),
    "mmseg-r101-512x512-80k": (mmseg, 101, 80_000, 43.97, 45.13),
    "mmseg-r50-512x512-160k": (mmseg, 50, 160_000, 42.08, 43.13),
    "mmseg-r101-512x512-160k": (mmseg, 101, 160_000, 43.71, 45.04),
}


def get_config(variant: str = "official-r101-512x512-160k") -> ml_collections.ConfigDict:
    """A variant by its name: RECIPE-BACKBONE-CROP-STEPS.

    Of ADE20K the paper's section 4.2 gives the learning rate of 1e-2 and five lengths from which the shorter
    side is drawn. It also says "batch size is 8", without a data set; crop, batch and steps of `official` are
    mmsegmentation's longest. There is no OHEM.
    mmsegmentation resizes images into 2048x512 first, in testing too.
    """
    recipe, depth, steps, *_ = VARIANTS[variant]
    config = recipe()
    config.steps = steps
    config.batch_size = 16
    config.data.name = "ade20k"
    config.data.crop = (512, 512)
    config.model.depth = depth
    if recipe is official:
        config.data.scale = None
        config.data.short_sides = (300, 375, 450, 525, 600)
        config.loss.name = "cross_entropy"
    else:
        config.data.resize = (2048, 512)
    return config
