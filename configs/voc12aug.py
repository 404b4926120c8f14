"""Pascal VOC 2012 + aug, 21 classes: mmsegmentation's recipe in all its published variants, and the paper's.

    python -m ccnet_jax.train --config voc12aug --config.data.dir=/path/to/VOCdevkit/VOC2012 \
        --config.pretrained=/path/to/backbone.safetensors
    python -m ccnet_jax.train --config voc12aug:mmseg-r50-512x512-20k --config.data.dir=...

`ccnet_jax/data/datasets/voc2012.py` says how the folder must lie; with trainaug.txt in place of aug.txt add
--config.data.train_split=trainaug. The paper has no VOC experiment: the first command is its recipe for
Cityscapes on VOC, without a published number. `VARIANTS` lists the others and the scores that were published;
all start from ImageNet weights, without which (`pretrained` not set) they do not reach them. None has been
trained here to the end yet.
"""

import ml_collections

from ccnet_jax.config.recipes import mmseg, official

# NAME: (recipe, depth, steps, published mIoU on val, the same with ms + flip)
VARIANTS = {
    "official-r101-512x512-40k": (official, 101, 40_000, None, None),
    "official-r50-512x512-40k": (official, 50, 40_000, None, None),
    "mmseg-r50-512x512-20k": (mmseg, 50, 20_000, 76.17, 77.51),
    "mmseg-r101-512x512-20k": (mmseg, 101, 20_000, 77.27, 79.02),
    "mmseg-r50-512x512-40k": (mmseg, 50, 40_000, 75.96, 77.04),
    "mmseg-r101-512x512-40k": (mmseg, 101, 40_000, 77.87, 78.90),
}


def get_config(variant: str = "official-r101-512x512-40k") -> ml_collections.ConfigDict:
    """A variant by its name: RECIPE-BACKBONE-CROP-STEPS.

    `official` has the optimizer and ratios of the paper's Cityscapes recipe, and its authors' loss; crop,
    batch and steps are mmsegmentation's. mmsegmentation resizes images into 2048x512 first, in
    testing too.
    """
    recipe, depth, steps, *_ = VARIANTS[variant]
    config = recipe()
    config.steps = steps
    config.batch_size = 16
    config.data.name = "voc2012"
    config.data.train_split = "train+aug"
    config.data.crop = (512, 512)
    config.model.depth = depth
    if recipe is mmseg:
        config.data.resize = (2048, 512)
    return config
