"""Load a trained network, and look into one.

model = ccnet_jax.load("runs/latest")      # a `Model`, or an `InstanceModel`, by the task of the run
"""

import os
from typing import Any

import jax
import numpy as np
from jaxtyping import Float32

from ccnet_jax.common import devices
from ccnet_jax.config import records
from ccnet_jax.data.user_images import read_image
from ccnet_jax.engine import checkpoints
from ccnet_jax.engine.folder import RunFolder
from ccnet_jax.evaluation.attention import attention_maps
from ccnet_jax.tasks import TASKS
from ccnet_jax.tasks.semantic_model import Model


def load(folder: str | os.PathLike, checkpoint_name: str = "last") -> Any:
    """The network of a run, or of a converted checkpoint: a `Model` or an `InstanceModel`, as its task says.

    Its data set need not be known here: class names and colours are in the run's folder.

    Args:
      folder: of the run; "~" is the user's home.
      checkpoint_name: "last", "best", or the folder of a checkpoint, in which "~" is the user's home.

    Raises:
      UserError: there is no such run or checkpoint.
    """
    run = RunFolder.at(folder)
    config = records.load_config(run)
    classes = records.load_classes(run)
    task = TASKS[config.task]
    network = task.network(config, len(classes.names))
    like = checkpoints.variables_like(network, devices.data_mesh(jax.local_devices()[:1]))
    variables, _ = checkpoints.load_variables(run, checkpoint_name, like)
    return task.model(config, network, variables, classes)


def attention_map(
    model: Model, image: str | os.PathLike | np.ndarray | jax.Array, point: tuple[int, int]
) -> Float32[np.ndarray, "loops h w"]:
    """What one pixel attends to after each loop of RCCA; see `evaluation.attention`.

    Args:
      model: with the context "rcca".
      image: a file's path, in which "~" is the user's home, or uint8 [H, W, 3] RGB.
      point: (row, column) in the image.

    Returns:
      float32 [loops, h, w], at the features' size, an eighth of the image's; each map sums to 1.

    Raises:
      UserError: the model has another context, the point lies outside the image, or the image cannot be
        read.
    """
    return attention_maps(model.network, model.variables, read_image(image), point)
