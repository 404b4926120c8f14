"""The gradient of a whole network at full width, compiled as users compile, beside the same in float64."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend import core

from ccnet_jax.models.ccnet import CCNet
from ccnet_jax.models.contexts import CONTEXTS
from ccnet_jax.models.flavours import FLAVOURS
from ccnet_jax.models.layers import REMAT
from ccnet_jax.training.losses import LossConfig
from ccnet_jax.training.semantic_loss import make_loss
from tests.compiling import AS_USERS
from tests.helpers import random_variables
from tests.jaxprs import used_operations

pytestmark = pytest.mark.slow

CLASSES = 19
NETWORKS = [  # context module, flavour, remat
    ("none", "official", "none"),
    ("rcca", "official", "norms"),
    ("rcca", "mmseg", "blocks"),
    ("psp", "official", "blocks"),
    ("aspp", "mmseg", "none"),
    ("nonlocal", "official", "norms"),
    ("nonlocal_block", "mmseg", "norms"),
]
# Float32 reaches 7e-3 here. A max pool that lost the gradient of some windows was 0.24 off.
BOUND = 1e-2


def batch() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES + 3, (3, 33, 33)).astype(np.uint8)
    labels[labels >= CLASSES] = 255
    return {"image": rng.integers(0, 256, (3, 33, 33, 3)).astype(np.uint8), "label": labels}


def gradient(network: CCNet, variables: Any, dtype: str, options: dict[str, Any]) -> Any:
    """Of the training loss, in float64; `options` are the compiler's."""
    with jax.enable_x64(dtype == "float64"):
        loss = make_loss(network.clone(dtype=jnp.dtype(dtype)), LossConfig())
        params, statistics = (
            jax.tree.map(lambda x: jnp.asarray(np.asarray(x), dtype), variables[kind])
            for kind in ("params", "batch_stats")
        )
        arrays = jax.tree.map(jnp.asarray, batch())
        arguments = params, statistics, arrays, jax.random.key(0)
        traced = jax.jit(jax.grad(loss, has_aux=True)).trace(*arguments)
        narrowing = [str(x) for x in used_operations(traced.jaxpr.jaxpr) if is_narrowing(x)]
        assert dtype != "float64" or not narrowing
        found, _ = traced.lower().compile(compiler_options=options)(*arguments)
        return jax.tree.map(lambda x: np.asarray(x, np.float64), found)


def is_narrowing(operation: core.JaxprEqn) -> bool:
    """Whether it rounds a number in float64."""
    return any(x.aval.dtype == "float64" for x in operation.invars) and any(
        jnp.issubdtype(x.aval.dtype, jnp.floating) and x.aval.dtype != "float64" for x in operation.outvars
    )


def norm(tree: Any) -> float:
    return float(np.sqrt(sum((x**2).sum() for x in jax.tree.leaves(tree))))


@pytest.mark.parametrize(("context", "flavour", "remat"), NETWORKS)
def test_float32_has_the_gradient_of_float64(context, flavour, remat, monkeypatch):
    monkeypatch.setattr(nn.Dropout, "__call__", lambda self, x: x)  # draws differ from dtype to dtype
    network = CCNet(CLASSES, depth=10, flavour=flavour, context=context, remat=remat)
    variables = random_variables(network)
    exact = gradient(network.clone(remat="none"), variables, "float64", {})
    found = gradient(network, variables, "float32", AS_USERS)
    assert norm(jax.tree.map(np.subtract, found, exact)) <= BOUND * norm(exact)


def test_every_part_that_changes_the_gradient_is_tried():
    assert [set(names) for names in zip(*NETWORKS, strict=True)] == [set(CONTEXTS), set(FLAVOURS), set(REMAT)]
