"""A trained network as one object: load it, call it on pictures, ask it for a label map.

model = ccnet_jax.load("runs/latest")
logits = jax.jit(model)(images)            # uint8 RGB [B, H, W, 3] -> float32 [B, H, W, num_classes]
prediction = model.predict("street.jpg")   # of any size; .label, .probabilities, .overlay
"""

import os
import pathlib
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float32, UInt8

from ccnet_jax import devices, figures
from ccnet_jax.data.images import decode_image, read_bytes
from ccnet_jax.errors import UserError
from ccnet_jax.evaluation.attention import attention_maps
from ccnet_jax.evaluation.prediction import scorer
from ccnet_jax.evaluation.test_mode import WHOLE, TestMode
from ccnet_jax.models.ccnet import CCNet, check_images
from ccnet_jax.models.config import build_network
from ccnet_jax.models.variables import Variables
from ccnet_jax.run import checkpoints
from ccnet_jax.run.folder import RunFolder


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
        _check_images(images)
        return self.network.apply(self.variables, images)[0]

    def predict(self, image: str | os.PathLike | np.ndarray | jax.Array) -> Prediction:
        """The prediction for one picture, tested as `mode` says.

        Args:
          image: a file's path, in which "~" is the user's home, or uint8 [H, W, 3] RGB of any size.

        Raises:
          UserError: the file cannot be read, or the array is not such a picture.
        """
        pixels = read_picture(image)
        images = jax.device_put(pixels[None], jax.tree.leaves(self.variables)[0].sharding)
        scores = scorer(self.network, self.mode)(self.variables, images)[0]
        probabilities = np.asarray(_probabilities(scores, jnp.asarray(self.mode.sums_probabilities)))
        label = probabilities.argmax(-1).astype(np.uint8)
        return Prediction(label, probabilities, figures.overlay(pixels, label, self.palette))


@jax.jit
def _probabilities(
    scores: Float32[Array, "H W K"], are_probabilities: Bool[Array, ""]
) -> Float32[Array, "H W K"]:
    """Scores, which are sums of probabilities or logits, as probabilities that sum to 1."""
    return jnp.where(are_probabilities, scores / scores.sum(-1, keepdims=True), jax.nn.softmax(scores))


def _check_images(images: Any) -> None:
    """Raise UserError where a batch of pictures is not what the network takes."""
    if not isinstance(images, jax.Array | np.ndarray):
        raise UserError(
            f"images must be an array, uint8 RGB [B, H, W, 3], not a {type(images).__name__}; pass, for "
            "example, np.stack(pictures)"
        )
    try:
        check_images(images)
    except (ValueError, TypeError) as error:
        raise UserError(str(error)) from None
    if images.dtype != jnp.uint8 and not isinstance(images, jax.core.Tracer):  # traced arrays have no values
        _check_range(images)


def _check_range(images: jax.Array | np.ndarray) -> None:
    """Raise UserError where floating pictures do not look like values from 0 to 255.

    A black picture passes: it is the same whether white is 1 or 255. Values up to half a grey level outside
    0 to 255 pass too: resizing makes them.
    """
    lowest, highest = float(images.min()), float(images.max())
    if not (np.isfinite(lowest) and np.isfinite(highest)):
        remedy = ", but must be finite; correct them"
    elif lowest < -0.5:
        remedy = " and look normalised; pass them as they were before, since the network normalises them"
    elif highest <= 1.5 and (lowest, highest) != (0, 0):
        remedy = ", as if white were 1, but the network takes 0 to 255; multiply them by 255"
    elif highest > 255.5:
        remedy = ", but the network takes 0 to 255; scale them"
    else:
        return
    raise UserError(f"images are {images.dtype} from {lowest:.3g} to {highest:.3g}{remedy}")


def read_picture(image: str | os.PathLike | np.ndarray | jax.Array) -> UInt8[np.ndarray, "H W 3"]:
    """The pixels of a file, or of an array that is a picture already.

    Args:
      image: a file's path, in which "~" is the user's home, or uint8 [H, W, 3] RGB.

    Raises:
      UserError: the file cannot be read, or the array is not such a picture.
    """
    if isinstance(image, str | os.PathLike):
        path = pathlib.Path(image).expanduser()
        return decode_image(read_bytes(path, "correct the path"), path)
    pixels = np.asarray(image)
    if pixels.ndim != 3 or pixels.shape[-1] != 3 or pixels.dtype != np.uint8:
        raise UserError(
            f"a picture must be uint8 [H, W, 3] RGB, not {pixels.dtype} {list(pixels.shape)}; convert it"
        )
    if pixels.size == 0:
        raise UserError(f"a picture of shape {list(pixels.shape)} is empty; pass one with pixels")
    return pixels


def load(folder: str | os.PathLike, checkpoint_name: str = "last") -> Model:
    """The network of a run, or of a converted checkpoint.

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
    network = build_network(config.model, len(classes.names), config.dtype)
    like = checkpoints.variables_like(network, devices.data_mesh(jax.local_devices()[:1]))
    variables, _ = checkpoints.load_variables(run, checkpoint_name, like)
    colours = tuple((int(red), int(green), int(blue)) for red, green, blue in classes.palette)
    return Model(variables, network, classes.names, colours, config.test_mode())


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
