"""Whole networks at full width compute PyTorch's loss, gradient and logits, and its losses of five steps.

Each case is one process that compiles as users do: with the flags of these tests XLA fuses otherwise, and a
gradient that is wrong in every program that trains is right here.
"""

import json

import numpy as np
import pytest

from ccnet_jax.training.schedules import build_schedule
from experiments import gradient_cases as cases
from experiments import gradients
from tests.helpers import fresh_python
from tests.weights.state_dicts import state_shapes

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def recorded():
    return cases.load_recorded()


@pytest.mark.parametrize("case", cases.CASES, ids="/".join)
def test_a_network_has_the_gradient_of_pytorch(recorded, case, tmp_path):
    """The program fails where anything is further off than it may be, and says what."""
    output = tmp_path / "gradients.json"
    fresh_python("-m", "experiments.gradients", "--only", "/".join(case), "--output", str(output))
    (row,) = json.loads(output.read_text())["rows"]
    assert (row["network"], row["dtype"]) == case
    shapes = state_shapes(*case[0].split("-")[:1], int(case[0].split("-")[1]))
    assert set(row["errors"]) - {gradients.WHOLE} == {
        name for name in shapes if not name.endswith(("running_mean", "running_var", "num_batches_tracked"))
    }
    assert ("logits" in row) == (case[1] == "float32")
    if case == (cases.TRAINING.network, "float32"):
        assert np.shape(row["steps"]) == (cases.TRAINING.steps, 2)


@pytest.mark.parametrize("name", cases.NETWORKS)
def test_the_recorded_networks_are_the_published_ones(recorded, name):
    network = cases.NETWORKS[name]
    shapes = {key: tuple(x) for key, x in cases.unpack_json(recorded[f"shapes/{name}"]).items()}
    assert shapes == state_shapes(network.flavour, network.depth)


def test_the_schedule_is_mmsegmentations(recorded):
    schedule = build_schedule(gradients.optimizer_config(), cases.TRAINING.schedule_steps)
    rates = recorded["training/learning_rates"]
    assert len(set(rates)) == cases.TRAINING.steps
    np.testing.assert_allclose([schedule(step) for step in range(len(rates))], rates, rtol=1e-6)


def test_projections_tell_how_long_a_difference_is():
    """Of small tensors exactly; of others within a few of their standard deviations of 9 %."""
    random = np.random.default_rng(0)
    for shape in [(), (61,), (62,), (64, 3, 3, 3), (19, 512, 1, 1), (128, 128, 3, 3)]:
        for kind in (random.standard_normal, lambda shape: np.exp(3 * random.standard_normal(shape))):
            tensor = kind(shape)
            told = np.linalg.norm(cases.projections("x", tensor)) / np.linalg.norm(tensor)
            assert told == pytest.approx(1, rel=0.4 if np.size(tensor) > cases.BUCKETS else 1e-12)
    other = random.standard_normal(shape)
    both = cases.projections("x", tensor) - cases.projections("x", other)
    np.testing.assert_allclose(both, cases.projections("x", tensor - other), atol=1e-9)


def test_what_is_too_large_is_named():
    row = {"network": "n", "dtype": "float32", "zeros": ["b"], "loss": [1e-7, 0.0]}
    row |= {"errors": {"all": [2e-3, 1e-3], "a": [1.9e-3, 1e-3], "b": [1e-7, 1e-9], "c": [1e-6, 1e-7]}}
    assert gradients.too_large(row) == []
    assert gradients.furthest(row) == "c"
    for key, value in {"all": [2.1e-3, 1e-3], "a": [float("nan"), 1.0], "b": [1.1e-7, 1e-9]}.items():
        (words,) = gradients.too_large(row | {"errors": row["errors"] | {key: value}})
        assert words.startswith(f"n in float32, {key}: ")
    steps = [[1e-5, 1e-4], [1e-5, 1.1e-4]]
    assert gradients.too_large(row | {"steps": steps}) == ["n in float32, the losses of step 2: 1.1e-04"]
    assert len(gradients.too_large(row | {"loss": [3e-6, 1e-6], "logits": [1e-5, 1e-6]})) == 2


def test_another_gradient_than_the_recorded_one_is_refused(recorded):
    names = cases.unpack_json(recorded["toy/float32/names"])
    gradient = {name: np.zeros(1) for name in names}
    with pytest.raises(ValueError, match="other sizes than recorded"):
        gradients.errors(recorded, "toy/float32", gradient)
    with pytest.raises(ValueError, match="other tensors than recorded: .*extra"):
        gradients.errors(recorded, "toy/float32", gradient | {"extra": np.zeros(1)})


def test_the_recording_is_small():
    assert cases.RECORDED.stat().st_size < 400_000
