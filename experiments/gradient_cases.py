"""What gradients are recorded of, and how: networks, weights, images, projections. Imports NumPy alone.

`experiments.record_gradients` computes these cases with PyTorch and writes `recorded/gradients.npz`;
`experiments.gradients` computes them with this package and compares. Keys of the file:

    versions                      JSON: of PyTorch, mmsegmentation, NumPy and Python
    shapes/NETWORK                JSON: {name: shape} of the state dict
    NETWORK/DTYPE/names           JSON: the parameters, in the order of all that follows
    NETWORK/DTYPE/loss            float64 []: of PyTorch's float64
    NETWORK/DTYPE/loss_errors     [ways]: relative, of each way in which PyTorch computed it in the dtype
    NETWORK/DTYPE/norms           [parameters]: of each tensor of the float64 gradient
    NETWORK/DTYPE/errors          [ways, parameters]: norms of the differences of PyTorch's in the dtype
    NETWORK/DTYPE/projections     `projections` of each tensor of the float64 gradient, joined
    NETWORK/logits                `excerpt` of PyTorch's float64 logits in inference, with the plain weights
    NETWORK/logits_error          PyTorch float32's largest error in it, divided by the largest logit
    training/{valid,all}          [5 steps, 2]: loss of the main head, and of the auxiliary head with its
                                  weight; mean over the pixels that are not void, or over all
    training/learning_rates       [5]

A gradient in float32 is recorded at other weights than one in bfloat16 (`WEIGHTS`), and training has its own.
"""

import json
import pathlib
from typing import Any, NamedTuple

import numpy as np

from experiments import drawn

RECORDED = pathlib.Path(__file__).parent / "recorded" / "gradients.npz"
# What a measurement depends on.
SOURCES = (
    *("kernels", "ccnet_jax", "experiments/drawn.py", "experiments/gradient_cases.py"),
    *("experiments/gradients.py", "experiments/recorded/gradients.npz"),
)
CLASSES = 19
VOID = 255
AUXILIARY_WEIGHT = 0.4
BUCKETS = 61  # projections of a tensor; a prime, so that they mix a kernel's channels
SQUARE = 11  # pixels a side of what the images show


class Network(NamedTuple):
    """A CCNet with 19 classes.

    Attributes:
      flavour: "official" or "mmseg".
      depth: of the ResNet.
      align_corners: how logits are upsampled.
      side: pixels of the two images.
      width: multiplier of every channel count.
      itself: recorded from mmsegmentation; otherwise from `experiments.torch_ccnet`.
    """

    flavour: str
    depth: int
    align_corners: bool
    side: int = 97
    width: float = 1.0
    itself: bool = False


NETWORKS = {
    "mmseg-50": Network("mmseg", 50, True, itself=True),
    "mmseg-101": Network("mmseg", 101, False, itself=True),
    "official-50": Network("official", 50, True),
}
# mmsegmentation has no ResNet-10.
TOY = {"toy": Network("mmseg", 10, False, 33, 1 / 16)}


class Weights(NamedTuple):
    """See `experiments.drawn.weights`."""

    damping: float = 1.0
    shift: float = 0.0


# Rounding takes activations from one side of ReLU's kink to the other, and each that crosses changes the
# gradient. In float32 enough cross that errors of two implementations are alike, and few enough that they are
# small; in bfloat16 only weights at which most activations lie far from the kink leave a gradient that means
# something.
WEIGHTS = {"float32": Weights(damping=0.2), "bfloat16": Weights(shift=1.0)}
PLAIN = Weights()  # of logits
CASES = [*((name, "float32") for name in NETWORKS), ("mmseg-50", "bfloat16")]
TOY_CASES = [("toy", "float32")]


class Training(NamedTuple):
    """Steps of SGD as mmsegmentation's own config has them; the schedule is cut to 20 steps.

    Few activations of its weights lie near the kink of ReLU: others make the losses of two implementations
    differ by 2e-4 after three steps, though each gradient agrees as well as rounding allows.
    """

    network: str = "mmseg-50"
    weights: Weights = Weights(shift=1.0)
    steps: int = 5
    schedule_steps: int = 20
    learning_rate: float = 0.01
    min_learning_rate: float = 1e-4
    power: float = 0.9
    momentum: float = 0.9
    weight_decay: float = 5e-4


TRAINING = Training()


def weights(shapes: drawn.Shapes, chosen: Weights) -> dict[str, np.ndarray]:
    """A state dict of these shapes."""
    return drawn.weights(shapes, damping=chosen.damping, shift=chosen.shift)


def batch(side: int, step: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two images, uint8 [2, side, side, 3], and labels, uint8 [2, side, side], about a sixth of them void.

    Both are of squares of one class, whose colour is another in each place; with some noise.
    """
    random = drawn.random_state("gradients", step)
    squares = -(-side // SQUARE)

    def enlarged(x: np.ndarray) -> np.ndarray:
        return x.repeat(SQUARE, 1).repeat(SQUARE, 2)[:, :side, :side]

    colours = enlarged(random.randint(20, 236, (2, squares, squares, 3)))
    images = (colours + random.randint(-20, 21, colours.shape)).astype(np.uint8)
    labels = enlarged(random.randint(0, CLASSES, (2, squares, squares)))
    labels = np.where(random.uniform(size=labels.shape) < 1 / 6, VOID, labels)
    return images, labels.astype(np.uint8)


def projections(name: str, tensor: np.ndarray) -> np.ndarray:
    """Up to `BUCKETS` sums over disjoint parts of a tensor, each entry with a random sign; float64.

    They are linear in the tensor. With a random sign for each entry, the sum of their squares is on average
    the square of the tensor's norm: of a difference of two tensors it tells the norm within about
    1 / sqrt(2 * BUCKETS), 9 %. A tensor with no more entries is its own projection, which tells it exactly.
    """
    flat = np.asarray(tensor, np.float64).ravel()
    if flat.size <= BUCKETS:
        return flat
    rows = -(-flat.size // BUCKETS)
    bits = np.frombuffer(drawn.random_state(f"signs {name}").bytes(-(-flat.size // 8)), np.uint8)
    signed = np.zeros(rows * BUCKETS)
    signed[: flat.size] = np.where(np.unpackbits(bits)[: flat.size], flat, -flat)
    return signed.reshape(rows, BUCKETS).sum(0)


def excerpt(logits: np.ndarray) -> np.ndarray:
    """[1, H, W, C] -> [h, w, C]: every twelfth pixel of both sides."""
    return logits[0, ::12, ::12]


def pack_json(value: object) -> np.ndarray:
    """JSON as bytes, for a .npz file."""
    return np.frombuffer(json.dumps(value, separators=(",", ":")).encode(), np.uint8)


def unpack_json(array: np.ndarray) -> Any:
    """The reverse of `pack_json`."""
    return json.loads(array.tobytes())


def load_recorded() -> dict[str, np.ndarray]:
    """All that is recorded: {key: array}."""
    with np.load(RECORDED) as file:
        return dict(file)
