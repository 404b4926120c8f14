"""A trained network as one object: load it, call it on pictures, ask it for a label map.

model = ccnet_jax.load("runs/latest")
logits = jax.jit(model)(images)            # uint8 RGB [B, H, W, 3] -> float32 [B, H, W, num_classes]
prediction = model.predict("street.jpg")   # of any size; .label, .probabilities, .overlay
"""

import os
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float32, UInt8

from ccnet_jax import devices, figures
from ccnet_jax.errors import UserError
from ccnet_jax.evaluation.attention import attention_maps
from ccnet_jax.evaluation.prediction import NotFinite, scorer
from ccnet_jax.evaluation.test_mode import WHOLE, TestMode
from ccnet_jax.instance_model import InstanceModel
from ccnet_jax.models.ccnet import CCNet
from ccnet_jax.models.variables import Variables
from ccnet_jax.pictures import check_batch, picture_name, read_picture
from ccnet_jax.run import checkpoints
from ccnet_jax.run.folder import RunFolder
from ccnet_jax.tasks import TASKS


class Prediction(flax.struct.PyTreeNode):
    """What a network predicts for one picture.

    Attributes:
      label: uint8 [H, W], the index of the most probable class of each pixel.
      probabilities: float32 [H, W, num_classes]; those of a pixel sum to 1.
      overlay: uint8 [H, W, 3] RGB, the picture blended with the classes' colours.
    """

    label: UInt8[np.ndarray, "H W"]
    probabilities: Float32[np.ndarray, "H W K"]
    overlay: UInt8[np.ndarray, "H W 3"]


class Model(flax.struct.PyTreeNode, eq=False):
    """A network with its weights. It is a pytree whose leaves are the weights.

    `jax.jit(model)`, `jax.vmap(model)` and `jax.jit(lambda model, images: model(images))` work. A batch that
    is split over devices stays split, if the weights lie on all of them (`jax.device_put(model, sharding)`).

    Attributes:
      variables: {"params", "batch_stats"}.
      network: the Flax module.
      classes: names of the classes.
      colours: (red, green, blue) of each class.
      mode: how `predict` tests a picture; `replace(mode=...)` gives a model with another.
    """

    variables: Variables
    network: CCNet = flax.struct.field(pytree_node=False)
    classes: tuple[str, ...] = flax.struct.field(pytree_node=False)
    colours: tuple[tuple[int, int, int], ...] = flax.struct.field(pytree_node=False)
    mode: TestMode = flax.struct.field(pytree_node=False, default=WHOLE)

    @property
    def palette(self) -> np.ndarray:
        """The classes' colours, uint8 [classes, 3] RGB."""
        return np.array(self.colours, np.uint8)

    def __call__(self, images: jax.Array | np.ndarray) -> Float32[Array, "B H W K"]:
        """The network's logits for a batch of pictures.

        Args:
          images: RGB [B, H, W, 3], values from 0 to 255, uint8 or floating. Do not
            normalise them: the network does. Under `jax.jit` and `jax.vmap` the values of floating pictures
            cannot be inspected: only shape and dtype are checked there.

        Returns:
          float32 [B, H, W, num_classes].

        Raises:
          UserError: the images have another shape or dtype, or floating values that are not 0 to 255.
        """
        check_batch(images)
        return self.network.apply(self.variables, images)[0]

    def predict(self, image: str | os.PathLike | np.ndarray | jax.Array) -> Prediction:
        """The prediction for one picture, tested as `mode` says.

        Args:
          image: a file's path, in which "~" is the user's home, or uint8 [H, W, 3] RGB of any size.

        Raises:
          UserError: the file cannot be read, the array is not such a picture, or the network's output is not
            finite.
        """
        pixels = read_picture(image)
        images = jax.device_put(pixels[None], jax.tree.leaves(self.variables)[0].sharding)
        scores = scorer(self.network, self.mode)(self.variables, images)[0]
        probabilities = np.asarray(_probabilities(scores, jnp.asarray(self.mode.sums_probabilities)))
        if not np.isfinite(probabilities).all():
            raise NotFinite(picture_name(image))
        label = probabilities.argmax(-1).astype(np.uint8)
        return Prediction(label, probabilities, figures.overlay(pixels, label, self.palette))


@jax.jit
def _probabilities(
    scores: Float32[Array, "H W K"], are_probabilities: Bool[Array, ""]
) -> Float32[Array, "H W K"]:
    """Scores, which are sums of probabilities or logits, as probabilities that sum to 1."""
    return jnp.where(are_probabilities, scores / scores.sum(-1, keepdims=True), jax.nn.softmax(scores))


def load(folder: str | os.PathLike, checkpoint_name: str = "last") -> Any:
    """The network of a run, or of a converted checkpoint: a `Model`, or an `InstanceModel` by `config.task`.

    Its data set need not be known here: class names and colours are in the run's folder.

    Args:
      folder: of the run; "~" is the user's home.
      checkpoint_name: "last", "best", or the folder of a checkpoint, in which "~" is the user's home.

    Raises:
      UserError: there is no such run or checkpoint.
    """
    run = RunFolder.at(folder)
    config = run.load_config()
    classes = run.load_classes()
    network = TASKS[config.task].network(config, len(classes.names))
    like = checkpoints.variables_like(network, devices.data_mesh(jax.local_devices()[:1]))
    variables, _ = checkpoints.load_variables(run, checkpoint_name, like)
    colours = tuple((int(red), int(green), int(blue)) for red, green, blue in classes.palette)
    if config.task == "instance":
        return InstanceModel(variables, network, classes.names, colours, config.data, config.detection)
    return Model(variables, network, classes.names, colours, config.test_mode())


def with_loops(model: Model, loops: int) -> Model:
    """The same weights with another number of RCCA's loops, which share them; 0 leaves the module out.

    Args:
      model: with the context "rcca".
      loops: 0 or more. With 0 the features pass unchanged, as in a network with the context "none".

    Raises:
      UserError: the model has another context.
    """
    if model.network.context != "rcca":
        raise UserError(f"loops are RCCA's, and this network's context is {model.network.context!r}")
    change = {"loops": loops} if loops else {"context": "none"}
    return model.replace(network=model.network.clone(**change))


def attention_map(
    model: Model, image: str | os.PathLike | np.ndarray | jax.Array, point: tuple[int, int]
) -> Float32[np.ndarray, "loops h w"]:
    """What one pixel attends to after each loop of RCCA; see `evaluation.attention`.

    Args:
      model: with the context "rcca".
      image: a file's path, in which "~" is the user's home, or uint8 [H, W, 3] RGB.
      point: (row, column) in the picture.

    Returns:
      float32 [loops, h, w], at the features' size, an eighth of the picture's; each map sums to 1.

    Raises:
      UserError: the model has another context, the point lies outside the picture, or the picture cannot be
        read.
    """
    return attention_maps(model.network, model.variables, read_picture(image), point)
