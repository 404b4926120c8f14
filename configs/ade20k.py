"""ADE20K, 150 classes: mmsegmentation's recipe in all its published variants, and the paper's.

    python -m ccnet_jax.train --config configs/ade20k.py --config.data.dir=/path/to/ADEChallengeData2016 \
        --config.pretrained=/path/to/backbone.safetensors
    python -m ccnet_jax.train --config configs/ade20k.py:mmseg-r50-512x512-80k --config.data.dir=...

`ccnet_jax/data/ade20k.py` says how the folder must lie. The first is the paper's: 45.22 % mIoU on val with
several scales (its Table 6). `VARIANTS` lists the others and what they reached where they were published; all
start from ImageNet weights, without which (`pretrained` not set) they will not get there. None has been
trained here to the end yet.
"""

import ml_collections
from ml_collections import config_dict

# NAME: (flavour, depth, steps, published mIoU on val, the same with ms + flip)
VARIANTS = {
    "official-r101-512x512-160k": ("official", 101, 160_000, None, 45.22),
    "official-r50-512x512-160k": ("official", 50, 160_000, None, None),
    "mmseg-r50-512x512-80k": ("mmseg", 50, 80_000, 41.78, 42.98),
    "mmseg-r101-512x512-80k": ("mmseg", 101, 80_000, 43.97, 45.13),
    "mmseg-r50-512x512-160k": ("mmseg", 50, 160_000, 42.08, 43.13),
    "mmseg-r101-512x512-160k": ("mmseg", 101, 160_000, 43.71, 45.04),
}


def get_config(variant: str = "official-r101-512x512-160k") -> ml_collections.ConfigDict:
    """A variant by its name, FLAVOUR-BACKBONE-CROP-SCHEDULE; any key can be changed on the command line.

    official: the paper draws the shorter side from five lengths (section 4.2); of ADE20K it says no more, so
    crop, batch and schedule are mmsegmentation's longest, and the optimizer is the paper's for Cityscapes.
    mmseg: pictures are fitted into 2048x512 first, in testing too.
    """
    if variant not in VARIANTS:
        raise ValueError(f"configs/ade20k.py has no variant {variant!r}, but one of {', '.join(VARIANTS)}")
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
                "name": "ade20k",
                "source": "folder",
                "dir": config_dict.placeholder(str),
                "features": config_dict.placeholder(tuple),
                "classes": config_dict.placeholder(tuple),
                "train_split": "train",
                "eval_split": "val",
                "fit": config_dict.placeholder(tuple) if official else (2048, 512),
                "scale": config_dict.placeholder(tuple) if official else (0.5, 2.0),
                "short_sides": (300, 375, 450, 525, 600) if official else config_dict.placeholder(tuple),
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
                "ohem": False,
                "ohem_threshold": 0.7,
                "ohem_min_kept": 50_000,
            },
        }
    )
