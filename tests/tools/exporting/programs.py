"""Small programs to export."""

import jax
import numpy as np

from ccnet_jax.models.ccnet import CCNet
from ccnet_jax.tools.exporting.program import ImageShape, Program, semantic_program
from tests.helpers import random_variables

SMALL = ImageShape(1, 33, 49)


def small_program(shape: ImageShape = SMALL, seed: int = 0, **settings) -> Program:
    """Of a random network of five classes, with probabilities."""
    network = CCNet(5, **{"depth": 10, "width": 0.125, "flavour": "mmseg"} | settings)
    variables = jax.tree.map(np.asarray, random_variables(network, seed))
    return semantic_program(network, variables, shape, probabilities=True)
