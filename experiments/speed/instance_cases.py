"""What `experiments.instance_speed` times, and with which objects. Imports neither JAX nor PyTorch."""

import numpy as np

from experiments.speed.cases import Case, Setup

CLASSES = 80  # of COCO
OBJECTS = 8  # of each image
LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 0.002, 0.9, 1e-4
CASE = Case("training", 50, 2, 256, 320, "float32")  # small enough for two cores
TOY = Case("training", 18, 1, 64, 64, "float32")
GPU_CASES = tuple(Case("training", 50, 8, 800, 1344, dtype) for dtype in ("bfloat16", "float32"))
PROGRAMS = {  # {contender: the program that times it}; the first one makes the weights of both
    "torchvision": "experiments.speed.instance_torchvision",
    "jax": "experiments.speed.instance_jax",
}

SETUPS = {
    "gpu": Setup(GPU_CASES, tuple(PROGRAMS), rounds=10, round_seconds=0.5),
    "cpu": Setup((CASE,), tuple(PROGRAMS), rounds=5, round_seconds=1.0),
    "toy": Setup((TOY,), tuple(PROGRAMS), rounds=2, round_seconds=0.0),
}


def regions(case: Case) -> int:
    """Of an image, that the losses of boxes look at; half of Mask R-CNN's time, so few of a toy image."""
    return 512 if case.height > TOY.height else 16


def boxes(case: Case) -> np.ndarray:
    """float32 [B, OBJECTS, 4]: x0, y0, x1, y1 of rectangles of whole pixels, from 24 to half the image."""
    rng = np.random.default_rng(2)
    sides = np.array([case.width, case.height])
    extent = rng.integers(24, sides // 2, (case.batch, OBJECTS, 2))
    corner = rng.integers(0, sides - extent)
    return np.concatenate([corner, corner + extent], -1).astype(np.float32)


def classes(case: Case) -> np.ndarray:
    """int32 [B, OBJECTS], 0 is the first class."""
    return np.random.default_rng(3).integers(0, CLASSES, (case.batch, OBJECTS), np.int32)
