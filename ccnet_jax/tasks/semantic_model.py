"""A trained network that labels pixels, as one object. `ccnet_jax.load` gives it for such a run.

model = ccnet_jax.load("runs/latest")
logits = jax.jit(model)(images)            # uint8 RGB [B, H, W, 3] -> float32 [B, H, W, num_classes]
prediction = model.predict("street.jpg")   # of any size; .label, .probabilities, .overlay
"""

import os

import flax
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float32, UInt8

from ccnet_jax import figures
from ccnet_jax.data.user_images import image_name, read_image
from ccnet_jax.evaluation.prediction import NotFinite, scorer
from ccnet_jax.evaluation.test_mode import WHOLE, TestMode
from ccnet_jax.models.ccnet import CCNet
from ccnet_jax.models.variables import Variables
from ccnet_jax.tasks.inputs import check_batch


class Prediction(flax.struct.PyTreeNode):
    """What a network predicts for one image.

    Attributes:
      label: uint8 [H, W], the index of the most probable class of each pixel.
      probabilities: float32 [H, W, num_classes]; those of a pixel sum to 1.
      overlay: uint8 [H, W, 3] RGB, the image blended with the classes' colours.
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
      numbers: what stands for each class in the label files of the run's data set, 0 to 255. Label maps that
        are written have them, so that they can be read as labels of that data set.
      mode: how `predict` tests an image; `replace(mode=...)` gives a model with another.
    """

    variables: Variables
    network: CCNet = flax.struct.field(pytree_node=False)
    classes: tuple[str, ...] = flax.struct.field(pytree_node=False)
    colours: tuple[tuple[int, int, int], ...] = flax.struct.field(pytree_node=False)
    numbers: tuple[int, ...] = flax.struct.field(pytree_node=False)
    mode: TestMode = flax.struct.field(pytree_node=False, default=WHOLE)

    @property
    def palette(self) -> np.ndarray:
        """The classes' colours, uint8 [classes, 3] RGB."""
        return np.array(self.colours, np.uint8)

    def __call__(self, images: jax.Array | np.ndarray) -> Float32[Array, "B H W K"]:
        """The network's logits for a batch of images.

        Args:
          images: RGB [B, H, W, 3], values from 0 to 255, uint8 or floating. Do not
            normalise them: the network does. Under `jax.jit` and `jax.vmap` the values of floating images
            cannot be inspected: only shape and dtype are checked there.

        Returns:
          float32 [B, H, W, num_classes].

        Raises:
          UserError: the images have another shape or dtype, or floating values that are not 0 to 255.
        """
        check_batch(images)
        return self.network.apply(self.variables, images)[0]

    def predict(self, image: str | os.PathLike | np.ndarray | jax.Array) -> Prediction:
        """The prediction for one image, tested as `mode` says.

        Args:
          image: a file's path, in which "~" is the user's home, or uint8 [H, W, 3] RGB of any size.

        Raises:
          UserError: the file cannot be read, the array is not such an image, or the network's output is not
            finite.
        """
        pixels = read_image(image)
        images = jax.device_put(pixels[None], jax.tree.leaves(self.variables)[0].sharding)
        scores = scorer(self.network, self.mode)(self.variables, images)[0]
        probabilities = np.asarray(_probabilities(scores, jnp.asarray(self.mode.sums_probabilities)))
        if not np.isfinite(probabilities).all():
            raise NotFinite(image_name(image))
        label = probabilities.argmax(-1).astype(np.uint8)
        return Prediction(label, probabilities, figures.overlay(pixels, label, self.palette))


@jax.jit
def _probabilities(
    scores: Float32[Array, "H W K"], are_probabilities: Bool[Array, ""]
) -> Float32[Array, "H W K"]:
    """Scores, which are sums of probabilities or logits, as probabilities that sum to 1."""
    return jnp.where(are_probabilities, scores / scores.sum(-1, keepdims=True), jax.nn.softmax(scores))
