import jax
import pytest

from ccnet_jax import config as configuration
from ccnet_jax.errors import UserError
from tests.helpers import ROOT, load_config

NAMES = sorted(path.stem for path in (ROOT / "configs").glob("*.py"))


@pytest.mark.parametrize("name", NAMES)
def test_every_config_is_complete_and_builds_its_network(name):
    config = load_config(name)
    configuration.check(config, devices=1)
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
        ({"batch_size": 6}, "batch_size=6 cannot be split evenly over 8 devices"),
        ({"data__crop": (0, 5)}, "data.crop must be two positive numbers"),
        ({"data__scale": (1.0, 2.0, 3.0)}, "data.scale must be two positive numbers"),
    ],
)
def test_values_that_cannot_be_run_are_named(changes, words):
    with pytest.raises(UserError, match=words):
        configuration.check(load_config("demo", **changes), devices=8)


def test_missing_and_unknown_keys_are_named():
    config = load_config("demo")
    with config.unlocked():
        del config.model.loops
    with pytest.raises(UserError, match="no key model.loops"):
        configuration.check(config, devices=1)
    config = load_config("demo")
    with config.unlocked():
        config.model.colour = "red"
    with pytest.raises(UserError, match="model.colour that means nothing"):
        configuration.check(config, devices=1)
