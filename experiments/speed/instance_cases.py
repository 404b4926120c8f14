"""What `experiments.instance_speed` times, and with which objects. Imports neither JAX nor PyTorch."""

import numpy as np

from experiments.speed.cases import Case

CLASSES = 80  # of COCO
OBJECTS = 8  # of each picture
LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 0.002, 0.9, 1e-4
CASE = Case("training", 50, 2, 256, 320, "float32")
PROGRAMS = {  # {contender: the program that times it}; the first one makes the weights of both
    "torchvision": "experiments.speed.instance_torchvision",
    "jax": "experiments.speed.instance_jax",
}


def boxes(case: Case) -> np.ndarray:
    """float32 [B, OBJECTS, 4]: x0, y0, x1, y1 of rectangles of whole pixels, from 24 to half the picture."""
    rng = np.random.default_rng(2)
    sides = np.array([case.width, case.height])
    extent = rng.integers(24, sides // 2, (case.batch, OBJECTS, 2))
    corner = rng.integers(0, sides - extent)
    return np.concatenate([corner, corner + extent], -1).astype(np.float32)


def classes(case: Case) -> np.ndarray:
    """int32 [B, OBJECTS], 0 is the first class."""
    return np.random.default_rng(3).integers(0, CLASSES, (case.batch, OBJECTS), np.int32)
