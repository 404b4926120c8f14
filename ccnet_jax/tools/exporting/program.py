"""What an exported file computes: uint8 images in, classes out, and all between them inside.

Weights pass an optimization barrier. Without it XLA would compute from them, while it compiles, what the
jitted model computes when it runs, with other rounding.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from jaxtyping import Array, Float32, UInt8

from ccnet_jax.data.sizes import LARGEST, SMALLEST
from ccnet_jax.evaluation.prediction import largest
from ccnet_jax.models.ccnet import CCNet
from ccnet_jax.models.variables import Variables

ODD_SIZES = ((33, 49), (65, 47), (51, 97))  # (height, width) at which files that take any size are compared
Outputs = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class ImageShape:
    """The images that a file takes; None stands for any.

    Attributes:
      batch: images of a call.
      height, width: in pixels.
    """

    batch: int | None = None
    height: int | None = None
    width: int | None = None

    @property
    def is_any(self) -> bool:
        """Whether something is left open."""
        return None in (self.batch, self.height, self.width)

    def symbolic(self) -> tuple[Any, ...]:
        """[B, H, W, 3] for JAX, with the names b, h and w for what is left open."""
        names = zip("bhw", (self.batch, self.height, self.width), strict=True)
        words = [name if side is None else str(side) for name, side in names]
        return tuple(export.symbolic_shape(f"{', '.join(words)}, 3", constraints=self.limits()))

    def limits(self) -> list[str]:
        """What must hold for the open sides, in JAX's words."""
        sides = [name for name, side in (("h", self.height), ("w", self.width)) if side is None]
        return [f"{side} {limit}" for side in sides for limit in (f">= {SMALLEST}", f"<= {LARGEST}")]

    def examples(self) -> list[tuple[int, int, int]]:
        """[B, H, W] of images to compare with: three odd sizes, as far as sizes are open."""
        found = [
            (self.batch or 1 + i % 2, self.height or height, self.width or width)
            for i, (height, width) in enumerate(ODD_SIZES)
        ]
        return list(dict.fromkeys(found))

    def __str__(self) -> str:
        batch, height, width = ("any" if x is None else x for x in (self.batch, self.height, self.width))
        return f"{batch} x {height} x {width}"


@dataclasses.dataclass(frozen=True)
class Program:
    """A function of images, with the weights inside.

    Attributes:
      shape: of the images.
      call: images uint8 [B, H, W, 3], and size int32 [B, 2] of instance networks, to named arrays.
      logits: images to logits float32 [B, H, W, classes]; None of instance networks.
      outputs: logits to named arrays, so that `call` is the one after the other; None of instance networks.
    """

    shape: ImageShape
    call: Callable[..., Outputs]
    logits: Callable[[jax.Array], jax.Array] | None = None
    outputs: Callable[[jax.Array], Outputs] | None = None

    def inputs(self) -> dict[str, jax.ShapeDtypeStruct]:
        """{name: shape and dtype} of what `call` takes."""
        shape = self.shape.symbolic()
        found = {"images": jax.ShapeDtypeStruct(shape, jnp.uint8)}
        if self.logits is None:
            found["size"] = jax.ShapeDtypeStruct((shape[0], 2), jnp.int32)
        return found

    def examples(self) -> Iterator[tuple[np.ndarray, ...]]:
        """Arguments of `call` with random images, in every size to compare with."""
        random = np.random.default_rng(0)
        for batch, height, width in self.shape.examples():
            images = random.integers(0, 256, (batch, height, width, 3), np.uint8)
            size = np.tile(np.array([height, width], np.int32), (batch, 1))
            yield (images,) if self.logits is not None else (images, size)


def semantic_program(network: CCNet, variables: Variables, shape: ImageShape, probabilities: bool) -> Program:
    """A network that labels pixels, with the results of `Model.predict` in one pass over whole images.

    "classes" is uint8 [B, H, W], and 255 where the network's output is not finite; with `probabilities`
    "probabilities" is float32 [B, H, W, classes].
    """
    network = network.clone(implementation="xla", remat="none")

    def logits(images: UInt8[Array, "B H W 3"]) -> Float32[Array, "B H W K"]:
        return network.apply(jax.lax.optimization_barrier(variables), images)[0]

    def outputs(logits: Float32[Array, "B H W K"]) -> Outputs:
        found = {"classes": largest(logits)}
        return found | ({"probabilities": jax.nn.softmax(logits)} if probabilities else {})

    return Program(shape, lambda images: outputs(logits(images)), logits, outputs)


def sized_program(forward: Callable[..., Any], variables: Variables, shape: ImageShape) -> Program:
    """What a task's `forward` finds in images [B, H, W, 3] on a canvas, by the names of its tuple.

    Its second argument is int32 [B, 2]: the (height, width) of each image, in the canvas's upper left
    corner.
    """

    def call(images: jax.Array, size: jax.Array) -> Outputs:
        return forward(jax.lax.optimization_barrier(variables), images, size)._asdict()

    return Program(shape, call)
