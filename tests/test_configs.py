import jax
import pytest

from ccnet_jax import config as configuration
from ccnet_jax.errors import UserError
from tests.helpers import ROOT, load_config

NAMES = sorted(path.stem for path in (ROOT / "configs").glob("*.py"))


@pytest.mark.parametrize("name", NAMES)
def test_every_config_is_complete_and_builds_its_network(name):
    config = load_config(name)
    configuration.check(config)
    model = configuration.build_model(config, 19)
    variables = jax.eval_shape(
        lambda x: model.init(jax.random.key(0), x), jax.ShapeDtypeStruct((1, 64, 64, 3), "uint8")
    )
    assert set(variables) == {"params", "batch_stats"}


def test_a_saved_config_comes_back_as_it_was(tmp_path):
    for name in NAMES:
        config = load_config(name)
        configuration.save(config, tmp_path)
        assert configuration.flat(configuration.load(tmp_path)) == configuration.flat(config)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dtype": "float64"}, "dtype='float64' does not exist; choose one of float32, bfloat16"),
        ({"model__depth": 42}, "model.depth=42 does not exist.*101"),
        ({"model__flavour": "keras"}, "model.flavour='keras'.*official"),
        ({"data__name": "kitti"}, "data.name='kitti'.*camvid"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"data__workers": -1}, "data.workers must be at least 0"),
        ({"model__width": 0}, "model.width must be above 0"),
        ({"model__implementation": "cuda"}, "model.implementation='cuda'.*xla"),
        ({"data__crop": (16, 64)}, "data.crop must be .*at least 32"),
        ({"data__crop": (48.5, 64)}, "data.crop must be"),
        ({"data__scale": (2.0, 0.5), "data__crop": (64, 64)}, "data.scale must be"),
        ({"data__scale": (1.0, 2.0, 3.0), "data__crop": (64, 64)}, "data.scale must be"),
        ({"data__scale": (0.5, 2.0)}, "set config.data.crop"),
    ],
)
def test_values_that_cannot_be_run_are_named(changes, words):
    with pytest.raises(UserError, match=words):
        configuration.check(load_config("demo", **changes))


def test_missing_and_unknown_keys_are_named():
    config = load_config("demo")
    with config.unlocked():
        del config.model.loops
    with pytest.raises(UserError, match="no key model.loops"):
        configuration.check(config)
    config = load_config("demo")
    with config.unlocked():
        config.model.colour = "red"
    with pytest.raises(UserError, match="model.colour that means nothing"):
        configuration.check(config)


def test_an_implementation_that_this_device_lacks_is_refused():
    configuration.check_device(load_config("demo", model__implementation="xla"))
    with pytest.raises(UserError, match="model.implementation='triton' needs an NVIDIA GPU.*None"):
        configuration.check_device(load_config("demo", model__implementation="triton"))


@pytest.mark.parametrize(
    ("trained_with", "evaluated_with"),
    [("triton", None), ("of another JAX", None), ("xla", "xla"), (None, None)],
)
def test_a_run_from_a_gpu_is_evaluated_with_what_runs_here(trained_with, evaluated_with):
    config = load_config("demo", model__implementation=trained_with)
    configuration.let_op_choose_if_needed(config)
    assert config.model.implementation == evaluated_with
