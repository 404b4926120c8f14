"""Pascal VOC 2012 + aug, 21 classes: mmsegmentation's recipe in all its published variants, and the paper's.

    python -m ccnet_jax.train --config configs/voc12aug.py --config.data.dir=/path/to/VOCdevkit/VOC2012 \
        --config.pretrained=/path/to/backbone.safetensors
    python -m ccnet_jax.train --config configs/voc12aug.py:mmseg-r50-512x512-20k --config.data.dir=...

`ccnet_jax/data/voc2012.py` says how the folder must lie; who has trainaug.txt instead of aug.txt adds
--config.data.train_split=trainaug. The paper has no VOC experiment: the first command is its recipe for
Cityscapes on VOC, without a published number. `VARIANTS` lists the others and what they reached where they
were published; all start from ImageNet weights, without which (`pretrained` not set) they will not get there.
None has been trained here to the end yet.
"""

import ml_collections
from ml_collections import config_dict

# NAME: (flavour, depth, steps, published mIoU on val, the same with ms + flip)
VARIANTS = {
    "official-r101-512x512-40k": ("official", 101, 40_000, None, None),
    "official-r50-512x512-40k": ("official", 50, 40_000, None, None),
    "mmseg-r50-512x512-20k": ("mmseg", 50, 20_000, 76.17, 77.51),
    "mmseg-r101-512x512-20k": ("mmseg", 101, 20_000, 77.27, 79.02),
    "mmseg-r50-512x512-40k": ("mmseg", 50, 40_000, 75.96, 77.04),
    "mmseg-r101-512x512-40k": ("mmseg", 101, 40_000, 77.87, 78.90),
}


def get_config(variant: str = "official-r101-512x512-40k") -> ml_collections.ConfigDict:
    """A variant by its name, FLAVOUR-BACKBONE-CROP-SCHEDULE; any key can be changed on the command line.

    official: optimizer, scales and loss of the paper's Cityscapes recipe; crop, batch and schedule are
    mmsegmentation's. mmseg: pictures are fitted into 2048x512 first, in testing too.
    """
    if variant not in VARIANTS:
        raise ValueError(f"configs/voc12aug.py has no variant {variant!r}, but one of {', '.join(VARIANTS)}")
    flavour, depth, steps, *_ = VARIANTS[variant]
    official = flavour == "official"
    return ml_collections.ConfigDict(
        {
            "steps": steps,
            "batch_size": 16,
            "seed": 0,
            "dtype": "float32",
            "log_every": 20,
            "eval_every": 5000,
            "eval_batch_size": 1,
            "eval_window": config_dict.placeholder(tuple),
            "eval_stride": config_dict.placeholder(tuple),
            "checkpoint_every": 1000,
            "pretrained": config_dict.placeholder(str),
            "distributed": False,
            "data": {
                "name": "voc2012",
                "source": "folder",
                "dir": config_dict.placeholder(str),
                "features": config_dict.placeholder(tuple),
                "classes": config_dict.placeholder(tuple),
                "train_split": "train+aug",
                "eval_split": "val",
                "fit": config_dict.placeholder(tuple) if official else (2048, 512),
                "scale": (0.75, 2.0) if official else (0.5, 2.0),
                "short_sides": config_dict.placeholder(tuple),
                "crop": (512, 512),
                "cat_max_ratio": 1.0 if official else 0.75,
                "flip": True,
                "distort": not official,
                "workers": 8,
            },
            "model": {
                "depth": depth,
                "flavour": flavour,
                "context": "rcca",
                "loops": 2,
                "width": 1.0,
                "stem": "deep",
                "align_corners": config_dict.placeholder(bool),
                "implementation": config_dict.placeholder(str),
                "remat": False,
            },
            "optimizer": {
                "learning_rate": 1e-2,
                "min_learning_rate": 0.0 if official else 1e-4,
                "momentum": 0.9,
                "weight_decay": 1e-4 if official else 5e-4,
                "power": 0.9,
            },
            "loss": {
                "auxiliary_weight": 0.4,
                "ohem": official,
                "ohem_threshold": 0.7,
                "ohem_min_kept": 50_000,
            },
        }
    )
