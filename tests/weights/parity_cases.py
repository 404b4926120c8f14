"""What PyTorch and this package are compared on: cases, weights and inputs, made by NumPy alone.

`record_torch.py` computes the cases with PyTorch and writes `recorded/torch.npz`; the tests compute them with
this package and compare. Random numbers come from `numpy.random.RandomState`, whose streams
NumPy keeps forever, so that weights and inputs need not be stored.
"""

import pathlib
from typing import NamedTuple

import numpy as np

from experiments.drawn import random_state
from experiments.gradient_cases import unpack_json

RECORDED = pathlib.Path(__file__).parent / "recorded" / "torch.npz"
CLASSES = 19
WIDTH = 1 / 16
VOID = 255


def sides(size: tuple[int, int]) -> str:
    """ "769x769"."""
    return "{}x{}".format(*size)


# ---------------------------------------------------------------------------------------------- networks
class Network(NamedTuple):
    """A narrow CCNet in PyTorch.

    Attributes:
      flavour: a key of `experiments.torch_ccnet.NETWORKS`.
      depth: of the ResNet.
      norm: of the official flavour: "in_place" or "plain" (`nn.BatchNorm2d`).
      stem: "deep" or "7x7".
      negative: every seventh weight of a norm is negative; in-place ABN takes its absolute value.
    """

    flavour: str
    depth: int
    norm: str = "in_place"
    stem: str = "deep"
    negative: bool = False


NETWORKS = {
    "official-50": Network("official", 50),
    "official-10": Network("official", 10),
    "official-10-in-place-negative": Network("official", 10, negative=True),
    "official-10-plain-negative": Network("official", 10, norm="plain", negative=True),
    "mmseg-50": Network("mmseg", 50),
    "mmseg-10": Network("mmseg", 10),
    "mmseg-10-7x7": Network("mmseg", 10, stem="7x7"),
}


class Prediction(NamedTuple):
    """A network in inference, on one image."""

    network: str
    size: tuple[int, int]
    align_corners: bool
    loops: int = 2

    @property
    def key(self) -> str:
        """What the keys of its recordings begin with."""
        return f"predict/{self.network}/{sides(self.size)}"


PREDICTIONS = [
    *(
        Prediction(f"{flavour}-{depth}", *settings)
        for flavour in ("official", "mmseg")
        for depth, *settings in (
            (50, (769, 769), True, 2),  # 97x97 features with both poolings
            (10, (512, 1024), False, 2),  # 65x129 features with ceil mode, 64x128 with floor mode
            (10, (33, 32), False, 1),  # 5x5 and 5x4
            (10, (64, 97), True, 3),
            (10, (47, 66), False, 2),
            (10, (1, 8), True, 2),  # 1x1 and 1x2
        )
    ),
    Prediction("official-10-in-place-negative", (40, 40), True),
    Prediction("official-10-plain-negative", (40, 40), True),
    Prediction("mmseg-10-7x7", (45, 64), False),
]


class Training(NamedTuple):
    """Three SGD steps of "FLAVOUR-10" on four images of 33x41, without dropout.

    The rate is learning_rate * (1 - step / steps) ** power; the loss is that of the main head, OHEM or not,
    plus auxiliary_weight times the auxiliary head's cross-entropy.
    """

    ohem: bool
    learning_rate: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 1e-2
    power: float = 0.9
    steps: int = 10
    auxiliary_weight: float = 0.4
    ohem_threshold: float = 0.05
    ohem_min_kept: int = 300  # for each image


TRAININGS = {"official": Training(ohem=True), "mmseg": Training(ohem=False)}
TRAINING_SIZE = (4, 33, 41)


def images(*shape: int, seed: int = 0) -> np.ndarray:
    """Uint8 [*shape, 3]."""
    return random_state("pictures", seed).randint(0, 256, (*shape, 3)).astype(np.uint8)  # a seed, as recorded


def training_labels() -> np.ndarray:
    """Uint8 [4, 33, 41] with a corner of void in each image."""
    labels = random_state("labels").randint(0, CLASSES, TRAINING_SIZE).astype(np.uint8)
    labels[:, :20, :9] = VOID
    return labels


# ------------------------------------------------------------------------------------ parts and optimizers
LOSS_CLASS_WEIGHTS = np.array([0.5, 2.0, 1.0, 3.0], np.float32)
LOSS_LABEL_SMOOTHING = 0.1
LOSS_OHEM_THRESHOLD, LOSS_OHEM_MIN_KEPT = 0.3, 30

RESIZED = [  # (height, width) -> (height, width)
    ((5, 7), (9, 13)),
    ((5, 7), (33, 32)),
    ((5, 7), (40, 57)),
    ((5, 7), (3, 4)),
    ((5, 7), (1, 1)),
    ((1, 4), (6, 9)),
    ((1, 1), (4, 3)),
]
POOLED = [(13, 9), (5, 4), (97, 97)]
BINS = (1, 2, 3, 6)
MAX_POOLED = [(8, 9), (1, 1), (2, 3), (33, 32)]

OPTIMIZER_STEPS = 5
LEARNING_RATE = 0.01
WEIGHT_DECAY = 0.05
MOMENTUM = 0.9
CLIP_NORM = 1.0
CLIP_NORMS = (1.0, 100.0)  # of which the first clips
SCHEDULE_STEPS = 10
POLY_POWER = 0.9
COSINE_MINIMUM = 1e-3


def loss_inputs() -> tuple[np.ndarray, np.ndarray]:
    """Logits, float32 [2, 5, 7, 4], and labels, uint8 [2, 5, 7], about a fifth of them void."""
    random = random_state("loss")
    logits = (random.standard_normal((2, 5, 7, 4)) * 3).astype(np.float32)
    labels = random.randint(0, 4, (2, 5, 7)).astype(np.uint8)
    labels[random.uniform(size=labels.shape) < 0.2] = VOID
    return logits, labels


def features(height: int, width: int) -> np.ndarray:
    """Float32 [2, height, width, 3]."""
    random = random_state(f"features {height}x{width}")
    return random.standard_normal((2, height, width, 3)).astype(np.float32)


def resize_key(before: tuple[int, int], after: tuple[int, int], aligned: bool) -> str:
    """Of a bilinear resizing."""
    return f"resize/{'aligned' if aligned else 'unaligned'}/{sides(before)}-{sides(after)}"


def pool_key(size: tuple[int, int], side: int) -> str:
    """Of an adaptive average pooling to side x side."""
    return f"pool/{sides(size)}/{side}"


def max_pool_key(size: tuple[int, int], ceil: bool) -> str:
    """Of a max pooling."""
    return f"max_pool/{'ceil' if ceil else 'floor'}/{sides(size)}"


def optimizer_inputs() -> tuple[dict[str, np.ndarray], list[dict[str, np.ndarray]]]:
    """Parameters {"kernel": [4, 3], "bias": [3]}, and the gradients of five steps (global norms 3 to 4.2)."""
    random = random_state("optimizer")

    def drawn() -> dict[str, np.ndarray]:
        shapes = {"kernel": (4, 3), "bias": (3,)}
        return {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}

    return drawn(), [drawn() for _ in range(OPTIMIZER_STEPS)]


def poly_rates() -> list[float]:
    """Of the five steps: LEARNING_RATE * (1 - step / SCHEDULE_STEPS) ** POLY_POWER."""
    return [LEARNING_RATE * (1 - step / SCHEDULE_STEPS) ** POLY_POWER for step in range(OPTIMIZER_STEPS)]


# -------------------------------------------------------------------------------------- what is recorded
def spread(length: int, count: int) -> np.ndarray:
    """At most `count` indices, evenly from the first to the last."""
    return np.unique(np.linspace(0, length - 1, min(length, count)).round().astype(int))


def excerpt(x: np.ndarray, pixels: int = 5) -> np.ndarray:
    """[B, H, W, C] -> float32 [B, h, w, c]: a grid of pixels with the corners, and some channels."""
    return np.asarray(x, np.float32)[:, spread(x.shape[1], pixels)][:, :, spread(x.shape[2], pixels)][
        ..., spread(x.shape[3], 19)
    ]


def means(x: np.ndarray) -> np.ndarray:
    """[B, H, W, C] -> float32 [2, C]: over all pixels, the mean and the root of the mean square."""
    x = np.asarray(x, np.float64)
    return np.stack([x.mean((0, 1, 2)), (x**2).mean((0, 1, 2)) ** 0.5]).astype(np.float32)


def sample(name: str, tensor: np.ndarray) -> np.ndarray:
    """Up to 16 entries of a tensor, then two sums over all of it with random signs, float32.

    It is linear in the tensor. The sums are divided by the root of the tensor's size.
    """
    flat = np.asarray(tensor, np.float64).ravel()
    random = random_state(f"sample {name}")
    picked = random.permutation(flat.size)[:16]
    signs = random.choice([-1.0, 1.0], (2, flat.size))
    return np.concatenate([flat[picked], signs @ flat / flat.size**0.5]).astype(np.float32)


def recorded_shapes(recorded: dict[str, np.ndarray], network: str) -> dict[str, tuple[int, ...]]:
    """{name: shape} of the state dict of a network, as PyTorch has it."""
    return {name: tuple(shape) for name, shape in unpack_json(recorded[f"shapes/{network}"]).items()}


def load_recorded() -> dict[str, np.ndarray]:
    """All that is recorded: {key: array}."""
    with np.load(RECORDED) as file:
        return dict(file)
