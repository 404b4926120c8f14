"""A trained network as one object: call it on pictures, jit it, ask it for a label map.

model = ccnet_jax.load("runs/latest")
logits = jax.jit(model)(images)            # uint8 RGB [B, H, W, 3] -> float32 [B, H, W, classes]
prediction = model.predict("street.jpg")   # any size; .label, .probabilities, .overlay
"""

import os
import pathlib
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np

from ccnet_jax import devices, figures
from ccnet_jax.data.images import decode_image, read_bytes
from ccnet_jax.errors import UserError
from ccnet_jax.evaluation import prediction
from ccnet_jax.evaluation.attention import attention_maps
from ccnet_jax.evaluation.test_mode import WHOLE, TestMode
from ccnet_jax.models.ccnet import CCNet
from ccnet_jax.models.config import build_network
from ccnet_jax.run import checkpoints
from ccnet_jax.run.folder import RunFolder


@flax.struct.dataclass
class Prediction:
    """What a network says of one picture.

    Attributes:
      label: uint8 [H, W], the index of the likeliest class.
      probabilities: float32 [H, W, classes]; they sum to 1.
      overlay: uint8 [H, W, 3] RGB, the picture with the classes' colours half over it.
    """

    label: np.ndarray
    probabilities: np.ndarray
    overlay: np.ndarray


@flax.struct.dataclass(eq=False)
class Model:
    """A network with its weights; a pytree, of which the weights are the leaves.

    `jax.jit(model)`, `jax.vmap(model)` and `jax.jit(lambda model, images: model(images))` work; a batch that
    is split over devices stays so, if the weights lie on all of them (`jax.device_put(model, sharding)`).

    Attributes:
      variables: {"params", "batch_stats"}.
      network: the Flax module.
      classes: names.
      colours: (red, green, blue) of each class.
      mode: how `predict` tests a picture; `replace(mode=...)` changes it.
    """

    variables: Any
    network: CCNet = flax.struct.field(pytree_node=False)
    classes: tuple[str, ...] = flax.struct.field(pytree_node=False)
    colours: tuple[tuple[int, int, int], ...] = flax.struct.field(pytree_node=False)
    mode: TestMode = flax.struct.field(pytree_node=False, default=WHOLE)

    @property
    def palette(self) -> np.ndarray:
        """The classes' colours, uint8 [classes, 3] RGB."""
        return np.array(self.colours, np.uint8)

    def __call__(self, images: jax.Array) -> jax.Array:
        """RGB pictures uint8 (or floating, 0 to 255) [B, H, W, 3] -> logits float32 [B, H, W, classes]."""
        return self.network.apply(self.variables, images)[0]

    def predict(self, image: str | os.PathLike | np.ndarray) -> Prediction:
        """What the network says of one picture, shown to it as `mode` says.

        Args:
          image: a file's path, or uint8 [H, W, 3] RGB of any size.

        Raises:
          UserError: the file cannot be read, or the array is no such picture.
        """
        image = read_picture(image)
        where = jax.tree.leaves(self.variables)[0].sharding
        images = jax.device_put(image[None], where)
        scores = prediction.scorer(self.network, self.mode)(self.variables, images)[0]
        probabilities = np.asarray(_normalized(scores, self.mode.sums_probabilities))
        label = probabilities.argmax(-1).astype(np.uint8)
        return Prediction(label, probabilities, figures.overlay(image, label, self.palette))


@jax.jit
def _normalized(scores: jax.Array, are_probabilities: jax.Array) -> jax.Array:
    return jnp.where(are_probabilities, scores / scores.sum(-1, keepdims=True), jax.nn.softmax(scores))


def read_picture(image: str | os.PathLike | np.ndarray) -> np.ndarray:
    """A file or an array as uint8 [H, W, 3] RGB. Raises UserError where it is none."""
    if not isinstance(image, str | os.PathLike):
        image = np.asarray(image)
        if image.ndim != 3 or image.shape[-1] != 3 or image.dtype != np.uint8:
            raise UserError(
                f"a picture must be uint8 [H, W, 3] RGB, not {image.dtype} {list(image.shape)}; convert it"
            )
        return image
    return decode_image(read_bytes(pathlib.Path(image), "correct the path"), image)


def load(folder: str | os.PathLike, checkpoint_name: str = "last") -> Model:
    """The network of a run, or of a converted checkpoint.

    Args:
      folder: of the run.
      checkpoint_name: "last", "best", or the folder of a checkpoint.

    Raises:
      UserError: there is no run or checkpoint.
    """
    run = RunFolder.at(folder)
    config = run.load_config()
    classes = run.load_classes()
    network = build_network(config.model, len(classes.names), config.dtype)
    like = checkpoints.variables_like(network, devices.data_mesh(jax.local_devices()[:1]))
    variables, _ = checkpoints.load_variables(run, checkpoint_name, like)
    colours = tuple(tuple(map(int, colour)) for colour in classes.palette)
    return Model(variables, network, classes.names, colours, config.test_mode())


def attention_map(model: Model, image: str | os.PathLike | np.ndarray, point: tuple[int, int]) -> np.ndarray:
    """What a pixel attends to after each loop, float32 [loops, h, w]; see `evaluation.attention`.

    Args:
      model: with the context "rcca".
      image: a file's path, or uint8 [H, W, 3] RGB.
      point: (row, column) in the picture.

    Raises:
      UserError: another context, a point outside the picture, no such file.
    """
    return attention_maps(model.network, model.variables, read_picture(image), point)
