"""No training program asks whether two floating-point numbers that it computes are equal.

A compiled program may compute a number twice, rounded otherwise each time. What depends on their equality is
then lost without a word, as the gradient of a max pool was that looked for the pixel that equals the maximum.
"""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.extend import core

from ccnet_jax.models.ccnet import CCNet
from ccnet_jax.models.contexts import CONTEXTS
from ccnet_jax.models.detection.config import DetectionConfig
from ccnet_jax.models.detection.mask_rcnn import MaskRCNN
from ccnet_jax.training.instance_losses import make_instance_loss
from ccnet_jax.training.losses import LOSSES, LossConfig
from ccnet_jax.training.semantic_loss import make_loss
from tests.jaxprs import used_operations

pytestmark = pytest.mark.slow


def comparisons(loss: Any, *arguments: Any) -> list[str]:
    """Where the loss or its gradient compares two computed floating-point numbers for equality."""
    program = jax.make_jaxpr(jax.value_and_grad(loss, has_aux=True))(*arguments)
    return [
        str(operation)
        for operation in used_operations(program.jaxpr)
        if operation.primitive.name in ("eq", "ne")
        and jnp.issubdtype(operation.invars[0].aval.dtype, jnp.floating)
        and not any(isinstance(variable, core.Literal) for variable in operation.invars)
        and operation.invars[0] is not operation.invars[1]  # which asks for NaN
    ]


def shape(size: tuple[int, ...], dtype: str) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(size, dtype)


def variables_of(network: Any) -> dict[str, Any]:
    return jax.eval_shape(network.init, jax.random.key(0), shape((1, 64, 64, 3), "float32"))


def test_an_equality_is_found():
    """Also inside a loop; one whose result nothing uses is none, nor one with a constant."""

    def step(total, x):
        return total + jnp.where(x == x.max(), x, 0).sum() + (x == 0).sum(), None

    def loss(params, x):
        x.sum() == x.max()  # noqa: B015
        return params * jax.lax.scan(step, 0.0, x)[0], None

    assert len(comparisons(loss, 1.0, shape((3, 4), "float32"))) == 1


@pytest.mark.parametrize(
    ("context", "name"),
    sorted({*itertools.product(CONTEXTS, ["ohem"]), *itertools.product(["rcca"], LOSSES)}),
)
def test_labels_of_pixels(context, name):
    network = CCNet(19, depth=10, width=0.125, context=context)
    variables = variables_of(network)
    batch = {"image": shape((2, 65, 65, 3), "uint8"), "label": shape((2, 65, 65), "uint8")}
    loss = make_loss(network, LossConfig(name=name))
    assert not comparisons(loss, variables["params"], variables["batch_stats"], batch, jax.random.key(0))


def test_instances():
    network = MaskRCNN(3, 10, "rcca", width=0.125, anchor_scale=4.0, stem="deep")
    variables = variables_of(network)
    batch = {
        "image": shape((2, 64, 64, 3), "uint8"),
        "size": shape((2, 2), "int32"),
        "boxes": shape((2, 3, 4), "float32"),
        "classes": shape((2, 3), "int32"),
        "used": shape((2, 3), "bool"),
        "masks": shape((2, 3, 8, 8), "uint8"),
    }
    config = DetectionConfig(train_proposals=20, sampled_anchors=16, sampled_regions=8)
    loss = make_instance_loss(network, config)
    assert not comparisons(loss, variables["params"], variables["batch_stats"], batch, jax.random.key(0))
