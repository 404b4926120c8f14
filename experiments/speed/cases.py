"""What `experiments.model_speed` times, and with which inputs. Imports neither JAX nor PyTorch."""

import itertools
import pathlib
from typing import NamedTuple

import numpy as np

CLASSES = 19
VOID = 255
SQUARE = 32  # pixels a side
LEARNING_RATE, MOMENTUM, WEIGHT_DECAY, AUXILIARY_WEIGHT = 1e-2, 0.9, 5e-4, 0.4
# {name: the program that times it}. PyTorch's three differ in how a user would call the same network.
CONTENDERS = {
    "jax": "experiments.speed.jax_side",
    "torch": "experiments.speed.torch_side",
    "torch channels-last": "experiments.speed.torch_side",
    "torch.compile": "experiments.speed.torch_side",
}


class Case(NamedTuple):
    """One thing to time.

    Attributes:
      task: "training", a whole step, or "inference", from uint8 images to label maps.
      depth: of the ResNet.
      batch, height, width: of the images.
      dtype: "float32", with TF32 products where the GPU has them, or "bfloat16", PyTorch's by autocast.
      channels: multiplier of every channel count.
    """

    task: str
    depth: int
    batch: int
    height: int
    width: int
    dtype: str
    channels: float = 1.0

    @property
    def name(self) -> str:
        """For example "training R-50 8x769x769 bfloat16"."""
        return f"{self.task} R-{self.depth} {self.batch}x{self.height}x{self.width} {self.dtype}"

    @property
    def weights_name(self) -> str:
        """Of the files with the network's weights."""
        return f"weights-{self.depth}-{self.channels}"

    def weights_file(self, folder: pathlib.Path, framework: str) -> pathlib.Path:
        """The network's weights under the names of "jax" or "torch"."""
        return folder / f"{self.weights_name}-{framework}.npz"


class Setup(NamedTuple):
    """What is timed on a kind of device, and for how long.

    Attributes:
      cases: the most telling first.
      contenders: keys of `CONTENDERS`.
      rounds: in each of them every contender runs once.
      round_seconds: about as long, at least one call.
    """

    cases: tuple[Case, ...]
    contenders: tuple[str, ...]
    rounds: int
    round_seconds: float


def gpu_cases() -> tuple[Case, ...]:
    """Both precisions, ResNet-50 and ResNet-101, every size that is trained or tested."""
    sizes = [
        ("training", (8, 769, 769)),
        ("inference", (1, 1024, 2048)),
        ("training", (16, 512, 512)),
        ("inference", (8, 769, 769)),
        ("inference", (16, 512, 512)),
    ]
    combined = itertools.product(("bfloat16", "float32"), (50, 101), sizes)
    return tuple(Case(task, depth, *size, dtype) for dtype, depth, (task, size) in combined)


CPU_CASES = (
    Case("inference", 50, 1, 512, 1024, "float32"),
    Case("training", 50, 2, 360, 480, "float32"),
)
TOY_CASES = (
    Case("inference", 10, 1, 33, 47, "float32", 0.125),
    Case("training", 10, 2, 32, 40, "float32", 0.125),
)
SETUPS = {
    "gpu": Setup(gpu_cases(), tuple(CONTENDERS), rounds=10, round_seconds=0.5),
    # compiling for the CPU takes PyTorch minutes; --contenders asks for it
    "cpu": Setup(CPU_CASES, ("jax", "torch", "torch channels-last"), rounds=5, round_seconds=1.0),
    "toy": Setup(TOY_CASES, tuple(CONTENDERS)[:3], rounds=2, round_seconds=0.0),
}


def images(case: Case) -> np.ndarray:
    """uint8 [B, H, W, 3] RGB: random squares with a little noise.

    Of noise alone deep layers would see its mean, nearly constant, and their norms would enlarge rounding.
    """
    rng = np.random.default_rng(0)
    shape = case.batch, -(-case.height // SQUARE), -(-case.width // SQUARE), 3
    squares = rng.integers(0, 224, shape, np.uint8).repeat(SQUARE, 1).repeat(SQUARE, 2)
    squares = squares[:, : case.height, : case.width]
    return squares + rng.integers(0, 32, squares.shape, np.uint8)


def labels(case: Case) -> np.ndarray:
    """uint8 [B, H, W], random classes; a tenth is void."""
    rng = np.random.default_rng(1)
    shape = case.batch, case.height, case.width
    classes = rng.integers(0, CLASSES, shape, np.uint8)
    return np.where(rng.random(shape) < 0.1, np.uint8(VOID), classes)
