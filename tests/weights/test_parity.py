"""This package computes what PyTorch does: against recordings, so that PyTorch is not needed.

Cases, weights and inputs are in `parity_cases.py`; `record_torch.py` recorded them.
"""

import dataclasses
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import traverse_util

from ccnet_jax.models.backbones.resnet import max_pool
from ccnet_jax.models.config import build_network
from ccnet_jax.models.contexts.psp import adaptive_average_pool
from ccnet_jax.models.resize import resize_bilinear
from ccnet_jax.training.losses import LossConfig
from ccnet_jax.training.optimizers import OptimizerConfig, build_optimizer
from ccnet_jax.training.semantic_loss import make_loss
from ccnet_jax.training.step import State, make_train_step
from ccnet_jax.weights.conversion import convert_tensors
from ccnet_jax.weights.detection import detect_network
from ccnet_jax.weights.naming import is_counter, naming_of
from ccnet_jax.weights.pretrained import load_backbone
from ccnet_jax.weights.values import has_in_place_norms, torch_tensors
from experiments import drawn
from experiments.gradient_cases import unpack_json
from tests.helpers import random_variables
from tests.weights import parity_cases as cases
from tests.weights.state_dicts import state_shapes

pytestmark = pytest.mark.slow

NOWHERE = pathlib.Path("weights")  # the state dicts are not read from a file
TOLERANCE = 1e-5  # of the largest value, as docs/weights.md says


@pytest.fixture(scope="module")
def recorded():
    return cases.load_recorded()


def state_dict(recorded, network):
    return drawn.weights(cases.recorded_shapes(recorded, network), cases.NETWORKS[network].negative)


def converted(state, align_corners=None, loops=2):
    """(network, variables) of a PyTorch state dict, as `convert` makes them."""
    found = detect_network(state, None, NOWHERE)
    model = dataclasses.replace(found.model, loops=loops, align_corners=align_corners)
    in_place = has_in_place_norms(state, found.naming)
    return build_network(model, found.num_classes), convert_tensors(state, found, model, in_place, NOWHERE)


def torch_state(variables, flavour, network):
    """The PyTorch state dict of variables, as `convert` writes it; counters left out, in order of names."""
    flat = {key: np.asarray(value) for key, value in traverse_util.flatten_dict(variables).items()}
    state = torch_tensors(flat, naming_of(network, NOWHERE), flavour == "official", 0)
    return {name: value for name, value in sorted(state.items()) if not is_counter(name)}


def assert_same(got, wanted):
    """Equal but for `TOLERANCE` of the largest."""
    assert got.shape == wanted.shape
    assert np.abs(got - wanted).max() <= TOLERANCE * np.abs(wanted).max()


# ---------------------------------------------------------------------------------------------- networks
@pytest.mark.parametrize("case", cases.PREDICTIONS, ids=lambda case: case.key.removeprefix("predict/"))
def test_features_and_logits(recorded, case):
    model, variables = converted(state_dict(recorded, case.network), case.align_corners, case.loops)

    @jax.jit
    def predict(variables, images):
        (logits, _), captured = model.apply(
            variables,
            images,
            capture_intermediates=lambda module, _: module.name == "backbone",
            mutable=["intermediates"],
        )
        ((*_, stage3, stage4),) = captured["intermediates"]["backbone"]["__call__"]
        return {"stage3": stage3, "stage4": stage4, "logits": logits}

    for name, got in predict(variables, cases.images(1, *case.size)).items():
        assert_same(cases.excerpt(got), recorded[f"{case.key}/{name}"])
        assert_same(cases.means(got), recorded[f"{case.key}/{name}_means"])


@pytest.mark.parametrize("flavour", cases.TRAININGS)
def test_three_training_steps(recorded, flavour, monkeypatch):
    """Loss, gradient, parameters and running statistics of SGD with momentum and weight decay.

    Without dropout, whose draws cannot agree. After the first step the tolerance is wider: where rounding
    takes an activation from one side of ReLU's kink to the other, gradients differ.
    """
    monkeypatch.setattr(nn.Dropout, "__call__", lambda self, x: x)
    case, network = cases.TRAININGS[flavour], f"{flavour}-10"
    start = state_dict(recorded, network)
    model, variables = converted(start)
    optimizer_config = OptimizerConfig(
        learning_rate=case.learning_rate,
        min_learning_rate=0.0,
        momentum=case.momentum,
        weight_decay=case.weight_decay,
        power=case.power,
    )
    loss_config = LossConfig(
        name="ohem" if case.ohem else "cross_entropy",
        auxiliary_weight=case.auxiliary_weight,
        ohem_threshold=case.ohem_threshold,
        ohem_min_kept=case.ohem_min_kept,
    )
    optimizer = build_optimizer(optimizer_config, case.steps)
    step = make_train_step(make_loss(model, loss_config), optimizer, 0)
    state = State(jnp.zeros((), jnp.int32), variables, optimizer.init(variables["params"]))
    labels = jnp.asarray(cases.training_labels())
    for i in range(3):
        images = jnp.asarray(cases.images(*cases.TRAINING_SIZE, seed=i))
        state, metrics = step(state, {"image": images, "label": labels})
        tolerance = 1e-3 if i == 0 else 2e-2
        *wanted_losses, wanted_norm = recorded[f"train/{flavour}/metrics"][i]
        got_losses = [metrics[name] for name in ("loss", "main_loss", "auxiliary_loss")]
        np.testing.assert_allclose(got_losses, wanted_losses, rtol=1e-4)
        np.testing.assert_allclose(metrics["gradient_norm"], wanted_norm, rtol=tolerance)
        if i == 1:
            continue
        wanted = iter(recorded[f"train/{flavour}/after{i + 1}"])
        for name, value in torch_state(state.variables, flavour, start).items():
            got, before = cases.sample(name, value), cases.sample(name, start[name])
            theirs = np.array([next(wanted) for _ in got])
            assert np.abs(got - theirs).max() <= tolerance * np.abs(theirs - before).max(), name
        assert not list(wanted)


@pytest.mark.parametrize("depth", [50, 101])
@pytest.mark.parametrize("flavour", cases.TRAININGS)
def test_the_published_networks(recorded, flavour, depth):
    """The recorded networks at full width have the names, shapes and parameters of the published ones."""
    published = {("official", 50): 52_295_783, ("official", 101): 71_287_911}
    published |= {("mmseg", 50): 49_826_055, ("mmseg", 101): 68_818_183}
    key = f"published/{flavour}-{depth}"
    assert recorded[f"{key}/parameters"] == published[flavour, depth]
    shapes = {name: tuple(shape) for name, shape in unpack_json(recorded[key]).items()}
    assert shapes == state_shapes(flavour, depth)


@pytest.mark.parametrize("network", ["official-10", "official-10-plain-negative", "mmseg-10", "mmseg-10-7x7"])
def test_a_pretrained_backbone_is_the_one_that_agrees(recorded, network, tmp_path):
    """`load_backbone` gives the variables with which features and logits are PyTorch's."""
    state = state_dict(recorded, network)
    model, wanted = converted(state)
    safetensors.numpy.save_file(state, tmp_path / "weights.safetensors")
    got = load_backbone(str(tmp_path / "weights.safetensors"), random_variables(model))
    for kind in ("params", "batch_stats"):
        jax.tree.map(np.testing.assert_array_equal, got[kind]["backbone"], wanted[kind]["backbone"])


# ------------------------------------------------------------------------------------------------ layers
@pytest.mark.parametrize("aligned", [True, False])
def test_bilinear_resizing(recorded, aligned):
    resize = jax.jit(resize_bilinear, static_argnums=(1, 2))
    for before, after in cases.RESIZED:
        got = resize(jnp.asarray(cases.features(*before)), after, aligned)
        wanted = recorded[cases.resize_key(before, after, aligned)]
        np.testing.assert_allclose(cases.excerpt(got, pixels=8), wanted, rtol=0, atol=1e-5)


def test_adaptive_average_pooling(recorded):
    for size in cases.POOLED:
        for side in cases.BINS:
            got = adaptive_average_pool(jnp.asarray(cases.features(*size)), side)
            np.testing.assert_allclose(got, recorded[cases.pool_key(size, side)], rtol=0, atol=1e-6)


@pytest.mark.parametrize("ceil", [True, False])
def test_max_pooling(recorded, ceil):
    for size in cases.MAX_POOLED:
        got = max_pool(jnp.asarray(cases.features(*size)), ceil)
        np.testing.assert_array_equal(cases.excerpt(got, pixels=8), recorded[cases.max_pool_key(size, ceil)])


# ------------------------------------------------------------------------------------------- the recording
def test_the_recording_is_small():
    assert sum(path.stat().st_size for path in cases.RECORDED.parent.iterdir()) < 250_000


def test_the_recording_is_what_pytorch_computes(recorded):
    pytest.importorskip("torch")
    from tests.weights import record_torch

    again = record_torch.recorded()
    assert set(again) == set(recorded)
    for key, value in again.items():
        if value.dtype == np.float32:
            np.testing.assert_allclose(
                recorded[key], value, rtol=1e-3, atol=1e-4 * np.abs(value).max(), err_msg=key
            )
        elif key != "versions":
            np.testing.assert_array_equal(recorded[key], value, err_msg=key)
