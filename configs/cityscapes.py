"""Cityscapes, 19 classes: the paper's recipe, and mmsegmentation's in all its published variants.

    python -m ccnet_jax.train --config configs/cityscapes.py --config.data.dir=/path/to/cityscapes \
        --config.pretrained=/path/to/backbone.safetensors
    python -m ccnet_jax.train --config configs/cityscapes.py:mmseg-r50-769x769-80k --config.data.dir=...

`ccnet_jax/data/cityscapes.py` says how the folder must lie. The first is the paper's: 79.8 % mIoU on val at
one scale (its Table 3). `VARIANTS` lists the others and what they reached where they were published; all
start from ImageNet weights, without which (`pretrained` not set) they will not get there. None has been
trained here to the end yet.
"""

import ml_collections
from ml_collections import config_dict

# NAME: (flavour, depth, crop, steps, published mIoU on val, the same with ms + flip)
VARIANTS = {
    "official-r101-769x769-60k": ("official", 101, (769, 769), 60_000, 79.8, 81.3),
    "official-r50-769x769-60k": ("official", 50, (769, 769), 60_000, 78.5, None),
    "mmseg-r50-512x1024-40k": ("mmseg", 50, (512, 1024), 40_000, 77.76, 78.87),
    "mmseg-r101-512x1024-40k": ("mmseg", 101, (512, 1024), 40_000, 76.35, 78.19),
    "mmseg-r50-769x769-40k": ("mmseg", 50, (769, 769), 40_000, 78.46, 79.93),
    "mmseg-r101-769x769-40k": ("mmseg", 101, (769, 769), 40_000, 76.94, 78.62),
    "mmseg-r50-512x1024-80k": ("mmseg", 50, (512, 1024), 80_000, 79.03, 80.16),
    "mmseg-r101-512x1024-80k": ("mmseg", 101, (512, 1024), 80_000, 78.87, 79.90),
    "mmseg-r50-769x769-80k": ("mmseg", 50, (769, 769), 80_000, 79.29, 81.08),
    "mmseg-r101-769x769-80k": ("mmseg", 101, (769, 769), 80_000, 79.45, 80.66),
}


def get_config(variant: str = "official-r101-769x769-60k") -> ml_collections.ConfigDict:
    """A variant by its name, FLAVOUR-BACKBONE-CROP-SCHEDULE; any key can be changed on the command line.

    official: the paper's section 4.2 and its authors' code, with OHEM; they keep 100k pixels of the two
    pictures on each of their GPUs, here the count is a picture's. mmseg: its crops of 769x769 are tested
    with sliding windows and have corner-aligned logits, those of 512x1024 are tested whole.
    """
    if variant not in VARIANTS:
        raise ValueError(
            f"configs/cityscapes.py has no variant {variant!r}, but one of {', '.join(VARIANTS)}"
        )
    flavour, depth, crop, steps, *_ = VARIANTS[variant]
    official = flavour == "official"
    slide = not official and crop == (769, 769)
    return ml_collections.ConfigDict(
        {
            "steps": steps,
            "batch_size": 8,
            "seed": 0,
            "dtype": "float32",
            "log_every": 20,
            "eval_every": 5000,
            "eval_batch_size": 1,
            "eval_window": (769, 769) if slide else config_dict.placeholder(tuple),
            "eval_stride": (513, 513) if slide else config_dict.placeholder(tuple),
            "checkpoint_every": 1000,
            "pretrained": config_dict.placeholder(str),
            "distributed": False,
            "data": {
                "name": "cityscapes",
                "source": "folder",
                "dir": config_dict.placeholder(str),
                "features": config_dict.placeholder(tuple),
                "classes": config_dict.placeholder(tuple),
                "train_split": "train",
                "eval_split": "val",
                "fit": config_dict.placeholder(tuple)
                if official
                else (2049, 1025)
                if slide
                else (2048, 1024),
                "scale": (0.75, 2.0) if official else (0.5, 2.0),
                "short_sides": config_dict.placeholder(tuple),
                "crop": crop,
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
                "align_corners": True if slide else config_dict.placeholder(bool),
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
