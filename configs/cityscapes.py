"""Cityscapes by the paper's recipe: ResNet-101, 769x769 crops, 60k steps of 8 pictures, OHEM.

    python -m ccnet_jax.train --config configs/cityscapes.py --config.data.dir=/path/to/cityscapes
    python -m ccnet_jax.train --config configs/cityscapes.py:50 --config.data.dir=/path/to/cityscapes

`ccnet_jax/data/cityscapes.py` says how the folder must lie. The paper reaches 79.8 % mIoU on val with
ResNet-101, two loops and one scale (its Table 3), starting from ImageNet weights. This config starts
from random weights, which will not reach that; no number measured yet.
"""

import ml_collections
from ml_collections import config_dict


def get_config(depth: str = "101") -> ml_collections.ConfigDict:
    """The paper's section 4.2. depth: "50" or "101".

    The authors keep 100k pixels of the two pictures on each of their GPUs; here the count is a picture's.
    """
    if depth not in ("50", "101"):
        raise ValueError(f"configs/cityscapes.py has the variants 50 and 101, not {depth}")
    return ml_collections.ConfigDict(
        {
            "steps": 60_000,
            "batch_size": 8,
            "seed": 0,
            "dtype": "float32",
            "log_every": 20,
            "eval_every": 5000,
            "eval_batch_size": 1,
            "checkpoint_every": 1000,
            "distributed": False,
            "data": {
                "name": "cityscapes",
                "dir": config_dict.placeholder(str),
                "train_split": "train",
                "eval_split": "val",
                "scale": (0.75, 2.0),
                "crop": (769, 769),
                "flip": True,
                "workers": 8,
            },
            "model": {
                "depth": int(depth),
                "flavour": "official",
                "context": "rcca",
                "loops": 2,
                "width": 1.0,
                "implementation": config_dict.placeholder(str),
                "remat": False,
            },
            "optimizer": {
                "learning_rate": 1e-2,
                "min_learning_rate": 0.0,
                "momentum": 0.9,
                "weight_decay": 1e-4,
                "power": 0.9,
            },
            "loss": {"auxiliary_weight": 0.4, "ohem": True, "ohem_threshold": 0.7, "ohem_min_kept": 50_000},
        }
    )
