"""What a pixel attends to, against attention matrices written out by hand and against the Jacobian."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccnet_jax import CCNet
from ccnet_jax.common.errors import UserError
from ccnet_jax.evaluation.attention import attention_maps
from ccnet_jax.tasks.semantic_model import Model
from ccnet_jax.weights import visualize
from kernels import criss_cross_attention
from tests.helpers import random_variables

SIZE = (40, 56)


@pytest.fixture(scope="module")
def model():
    """Two loops and random weights, with an attention that is neither even nor all on one pixel."""
    network = CCNet(5, 10, "mmseg", loops=2, width=0.125, remat="blocks")
    variables = random_variables(network)
    attention = variables["params"]["head"]["context"]["rcca"]["attention"]
    for name in ("query", "key"):
        attention[name]["kernel"] *= 0.15
    return Model(variables, network, tuple("abcde"), ((0, 0, 0),) * 5, tuple(range(5)))


@pytest.fixture(scope="module")
def features(model):
    """RCCA's input [1, h, w, C] in float64."""

    @jax.jit
    def run(variables, image):
        _, state = model.network.apply(
            variables,
            image[None],
            capture_intermediates=lambda module, _: module.path == ("head", "before"),
            mutable="intermediates",
        )
        return state["intermediates"]["head"]["before"]["__call__"][0]

    return np.asarray(run(model.variables, image()), np.float64)


def image():
    return np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)


def parameters(model):
    values = model.variables["params"]["head"]["context"]["rcca"]["attention"]
    return jax.tree.map(lambda x: np.asarray(x, np.float64), values)


def matrix(p, x):
    """A [h w, h w] in float64 for features x [h, w, C]: softmax over a pixel's row and column."""
    h, w, _ = x.shape
    query, key = (x @ p[name]["kernel"] + p[name]["bias"] for name in ("query", "key"))
    a = np.zeros((h, w, h, w))
    for i in range(h):
        for j in range(w):
            on_cross = [(r, j) for r in range(h)] + [(i, c) for c in range(w) if c != j]
            energy = np.array([query[i, j] @ key[r, c] for r, c in on_cross])
            weights = np.exp(energy - energy.max())
            for (r, c), weight in zip(on_cross, weights / weights.sum(), strict=True):
                a[i, j, r, c] = weight
    return a.reshape(h * w, h * w)


def by_hand(model, x):
    """[A_1, A_2] of the two loops."""
    p = parameters(model)
    first = matrix(p, x)
    value = (x @ p["value"]["kernel"] + p["value"]["bias"]).reshape(len(first), -1)
    second = matrix(p, x + p["gamma"] * (first @ value).reshape(x.shape))
    return first, second


@pytest.mark.parametrize("point", [(0, 0), (17, 30), (39, 55)])
def test_maps_are_the_rows_of_the_composed_attention_matrices(model, features, point):
    first, second = by_hand(model, features[0])
    h, w = features.shape[1:3]
    u = (point[0] * h // SIZE[0]) * w + point[1] * w // SIZE[1]
    maps = visualize.attention_map(model, image(), point)
    assert maps.shape == (2, h, w)
    np.testing.assert_allclose(maps[0].ravel(), first[u], atol=2e-5)
    np.testing.assert_allclose(maps[1].ravel(), (second @ first)[u], atol=2e-5)
    np.testing.assert_allclose(maps.sum((1, 2)), 1, atol=1e-5)
    cross = np.zeros((h, w), bool)
    cross[u // w], cross[:, u % w] = True, True
    assert (maps[0] > 0)[cross].all()
    assert not maps[0][~cross].any()
    assert (maps[1] > 0).all()  # two loops reach every pixel


def test_the_composed_map_is_the_jacobian_of_the_module_with_its_projections_frozen(model, features):
    """out = y + g A_2 (y W), y = x + g A_1 (x W): with frozen A, two loops' part is g^2 A_2 A_1 x W W."""
    p = parameters(model)
    gamma, kernel = p["gamma"], p["value"]["kernel"]
    x = jnp.asarray(features)
    projected = {}

    def queries_and_keys(x):
        return [x @ p[name]["kernel"] + p[name]["bias"] for name in ("query", "key")]

    projected[1] = queries_and_keys(x)
    value = x @ kernel + p["value"]["bias"]
    projected[2] = queries_and_keys(x + gamma * criss_cross_attention(*projected[1], value))

    def two_loops(x):
        for loop in (1, 2):
            value = x @ kernel + p["value"]["bias"]
            x = x + gamma * criss_cross_attention(*projected[loop], value)
        return x

    point, (h, w) = (20, 30), features.shape[1:3]
    row, column = point[0] * h // SIZE[0], point[1] * w // SIZE[1]
    jacobian = np.asarray(jax.jacrev(lambda x: two_loops(x)[0, row, column])(x))[:, 0]  # [C, h, w, C]
    once, twice = attention_maps(model.network, model.variables, image(), point)
    alone = np.zeros((h, w))
    alone[row, column] = 1
    second = visualize_second(projected[2], row, column, (h, w))
    wanted = np.einsum("hw,ij->jhwi", alone, np.eye(len(kernel)))
    wanted += gamma * np.einsum("hw,ij->jhwi", once + second, kernel)
    wanted += gamma**2 * np.einsum("hw,ij->jhwi", twice, kernel @ kernel)
    np.testing.assert_allclose(jacobian, wanted, atol=1e-4)


def visualize_second(projected, row, column, size):
    """Row (row, column) of the second loop's attention matrix, from the op's own values on one-hot maps."""
    values = jnp.eye(size[0] * size[1]).reshape(1, *size, -1)
    return np.asarray(criss_cross_attention(*projected, values)[0, row, column]).reshape(size)


def test_what_cannot_be_shown_is_one_message(model):
    with pytest.raises(UserError, match="point .40, 0. is no pixel of the image of 40 rows and 56 columns"):
        visualize.attention_map(model, image(), (40, 0))
    other = model.replace(network=model.network.clone(context="psp"))
    with pytest.raises(UserError, match="RCCA's, and this network's context is 'psp'"):
        visualize.attention_map(other, image(), (0, 0))
