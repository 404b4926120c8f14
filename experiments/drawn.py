"""Random weights for PyTorch's networks, drawn by NumPy alone, from the names and shapes of a state dict.

Random numbers come from `numpy.random.RandomState`, whose streams NumPy keeps forever, one stream for each
name. So what PyTorch computed with such weights can be recorded, and the weights need not be stored.
"""

import re
import zlib

import numpy as np

Shapes = dict[str, tuple[int, ...]]  # {name: shape} of a state dict
# The norm that ends a branch of a block: the third of a bottleneck, the second of a basic block.
_BLOCK = re.compile(r"(.*layer\d\.\d+)\.bn(\d)\.weight")


def random_state(name: str, seed: int = 0) -> np.random.RandomState:
    """A stream of its own for each name."""
    return np.random.RandomState([seed, zlib.crc32(name.encode())])


def weights(
    shapes: Shapes, negative: bool = False, seed: int = 0, damping: float = 1.0, shift: float = 0.0
) -> dict[str, np.ndarray]:
    """A state dict with these names and shapes: attention takes part, no activation explodes.

    Args:
      shapes: {name: shape} of a PyTorch network.
      negative: every seventh weight of a norm is negative.
      seed: another one gives other weights.
      damping: what the weights of the norms that end a block's branch are multiplied with. Below 1 each block
        changes its input less, as in trained networks, and enlarges rounding less.
      shift: what is added to the biases of norms. Above 0 more activations lie above the kink of ReLU, and
        fewer of them cross it where they are rounded.
    """
    ends: dict[str, str] = {}  # {block: its last norm}
    for name in sorted(shapes):
        if block := _BLOCK.fullmatch(name):
            ends[block[1]] = name
    tensors = {}
    for name, shape in shapes.items():
        value = _tensor(name, shape, negative, seed)
        if name in ends.values():
            value *= np.float32(damping)
        if name.endswith(".bias") and name.replace(".bias", ".running_mean") in shapes:
            value += np.float32(shift)
        tensors[name] = value
    return tensors


def _tensor(name: str, shape: tuple[int, ...], negative: bool, seed: int) -> np.ndarray:
    random = random_state(name, seed)
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    if len(shape) == 4:
        values = random.standard_normal(shape) * (2 / np.prod(shape[1:])) ** 0.5
        if "query" in name or "key" in name:
            values /= 2  # with larger energies the softmax would amplify rounding errors
    elif "gamma" in name:
        values = np.full(shape, 0.7)
    elif name.endswith("running_var"):
        values = random.uniform(0.5, 2, shape)
        if name == "bn1.running_var":
            values *= 3600  # the official flavour does not divide images by their standard deviation
    elif name.endswith(("running_mean", "bias")):
        values = random.uniform(-0.3, 0.3, shape)
    else:  # the weight of a norm
        values = random.uniform(0.4, 1, shape)
        if negative:
            values[::7] *= -1
    return np.asarray(values, np.float32)
