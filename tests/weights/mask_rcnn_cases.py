"""Mask R-CNN beside torchvision's: weights and inputs made by NumPy alone, and the results to compare.

`record_torchvision.py` computes the cases with torchvision and writes `recorded/torchvision.npz`; the tests
compute them with this package and compare.
"""

import functools
import pathlib
import zlib

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from ccnet_jax.models.detection.mask_rcnn import MaskRCNN
from ccnet_jax.weights.instance_import import INSTANCE_NAMES, converted_variable
from ccnet_jax.weights.naming import Naming

RECORDED = pathlib.Path(__file__).parent / "recorded" / "torchvision.npz"
CLASSES = 5
DEPTHS = (18, 50)
SIZES = ((97, 130), (123, 75))  # (height, width), of two images
CANVAS = 32  # sides of padded images are multiples of it
REGIONS = 7
DETECTIONS = 16


def network(depth: int, classes: int = CLASSES, width: float = 1.0) -> MaskRCNN:
    """Without a context module, as torchvision has it."""
    return MaskRCNN(classes, depth, width=width)


@functools.cache
def random_state(
    depth: int, source: str = "torchvision", classes: int = CLASSES, width: float = 1.0
) -> tuple[dict, dict]:
    """A state dict under the names of `source`, and the same weights as our variables.

    Residual branches are damped, as in trained networks; the heads are weak, so that nothing is certain.
    """
    names, rng, state = INSTANCE_NAMES[source], np.random.RandomState, {}
    naming = Naming("", names.backbone, "torchvision", None)
    images = jax.ShapeDtypeStruct((1, 64, 64, 3), np.uint8)
    shapes = traverse_util.flatten_dict(
        jax.eval_shape(network(depth, classes, width).init, jax.random.key(0), images)
    )

    def tensor(key: tuple[str, ...], needed: tuple[int, ...]) -> np.ndarray:
        module = "/".join(key[1:-1])
        if key[1] == "backbone":
            name = naming.name(key)
        else:
            name = f"{names.modules[module][0]}.{'weight' if key[-1] == 'kernel' else key[-1]}"
        stream = rng(zlib.crc32(name.encode()))
        match key[-1]:
            case "kernel":
                inputs = needed[0] * 4 if "upsample" in module else np.prod(needed[1:])
                strength = {"box_head/classes": 0.02, "rpn_head/objectness": 0.05, "box_head/deltas": 0.1}
                strength |= {"mask_head/masks": 0.1, "rpn_head/deltas": 0.05}
                deviation = strength.get(module, 1.0) * (2 / inputs) ** 0.5
                value = deviation * stream.standard_normal(needed)
            case "scale":
                last = key[3] == ("norm3" if depth >= 50 else "norm2") if len(key) > 4 else False
                value = stream.uniform(0.1, 0.3, needed) if last else stream.uniform(0.7, 1.3, needed)
            case "var":
                value = stream.uniform(0.5, 1.5, needed)
            case _:
                value = 0.1 * stream.standard_normal(needed)
        state[name] = value.astype(np.float32)
        return state[name]

    variables = {key: converted_variable(key, x.shape, names, tensor) for key, x in shapes.items()}
    return state, jax.tree.map(jnp.asarray, traverse_util.unflatten_dict(variables))


def image(size: tuple[int, int]) -> np.ndarray:
    """uint8 [height, width, 3]: squares with a little noise."""
    rng = np.random.RandomState(size[0])
    squares = rng.randint(0, 224, (-(-size[0] // 16), -(-size[1] // 16), 3)).astype(np.uint8)
    large = squares.repeat(16, 0).repeat(16, 1)[: size[0], : size[1]]
    return large + rng.randint(0, 32, large.shape).astype(np.uint8)


def regions(size: tuple[int, int]) -> np.ndarray:
    """float32 [REGIONS, 4], of several sizes, some beyond the edge."""
    rng = np.random.RandomState(size[1])
    corners = rng.uniform(-4, 0.8 * min(size), (REGIONS, 2))
    return np.concatenate([corners, corners + rng.uniform(2, max(size), (REGIONS, 2))], 1).astype(np.float32)


def excerpt(values: np.ndarray) -> np.ndarray:
    """About 300 of the values, evenly spread."""
    flat = np.asarray(values, np.float32).ravel()
    return flat[:: max(1, flat.size // 300)]
