"""CamVid, 11 classes at 480x360: a small real data set for a first run on real pictures.

    python -m ccnet_jax.train --config configs/camvid.py --config.data.dir=/path/to/camvid

`ccnet_jax/data/camvid.py` says how the folder must lie. From random weights; no number measured yet.
"""

import ml_collections
from ml_collections import config_dict


def get_config() -> ml_collections.ConfigDict:
    """ResNet-50, mmsegmentation's flavour, 360x480 crops of pictures scaled by 0.5 to 2."""
    return ml_collections.ConfigDict(
        {
            "steps": 20_000,
            "batch_size": 8,
            "seed": 0,
            "dtype": "float32",
            "log_every": 10,
            "eval_every": 1000,
            "eval_batch_size": 8,
            "eval_window": config_dict.placeholder(tuple),
            "eval_stride": config_dict.placeholder(tuple),
            "checkpoint_every": 1000,
            "pretrained": config_dict.placeholder(str),
            "distributed": False,
            "data": {
                "name": "camvid",
                "source": "folder",
                "dir": config_dict.placeholder(str),
                "features": config_dict.placeholder(tuple),
                "classes": config_dict.placeholder(tuple),
                "train_split": "train",
                "eval_split": "val",
                "fit": config_dict.placeholder(tuple),
                "scale": (0.5, 2.0),
                "short_sides": config_dict.placeholder(tuple),
                "crop": (360, 480),
                "cat_max_ratio": 0.75,
                "flip": True,
                "distort": True,
                "workers": 0,
            },
            "model": {
                "depth": 50,
                "flavour": "mmseg",
                "context": "rcca",
                "loops": 2,
                "width": 1.0,
                "stem": "deep",
                "align_corners": config_dict.placeholder(bool),
                "implementation": config_dict.placeholder(str),
                "remat": False,
            },
            "optimizer": {
                "learning_rate": 0.02,
                "min_learning_rate": 1e-4,
                "momentum": 0.9,
                "weight_decay": 5e-4,
                "power": 0.9,
            },
            "loss": {"auxiliary_weight": 0.4, "ohem": False, "ohem_threshold": 0.7, "ohem_min_kept": 100_000},
        }
    )
