"""Every config: complete, buildable, able to make a batch of its data and to take a step; and bad values."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccnet_jax import config as configuration
from ccnet_jax.data import pipeline
from ccnet_jax.errors import UserError
from ccnet_jax.training.optimizers import sgd
from ccnet_jax.training.step import initial_state, make_train_step
from tests.helpers import ROOT, load_config, load_config_file
from tests.miniatures import WRITERS

NAMES = sorted(path.stem for path in (ROOT / "configs").glob("*.py"))
VARIANTS = [
    f"{name}:{variant}" for name in NAMES for variant in getattr(load_config_file(name), "VARIANTS", ())
]


@pytest.fixture(scope="module")
def miniatures(tmp_path_factory):
    """{name: folder} of every data set."""
    root = tmp_path_factory.mktemp("miniatures")
    return {name: write(root / name) for name, write in WRITERS.items()}


@functools.cache
def parameters(flavour, depth, num_classes, **model):
    """The number of parameters of the network at full size, built abstractly."""
    config = load_config("demo", model__flavour=flavour, model__depth=depth, model__width=1.0, **model)
    network = configuration.build_model(config, num_classes)
    variables = jax.eval_shape(
        lambda x: network.init(jax.random.key(0), x), jax.ShapeDtypeStruct((1, 64, 64, 3), "uint8")
    )
    return sum(x.size for x in jax.tree.leaves(variables["params"]))


@functools.cache
def reduced_step(num_classes, changes):
    """(state, step function) of the recipe's network at a sixteenth of the width and ten layers."""
    config = load_config("demo", **dict(changes), model__width=1 / 16, model__depth=10)
    model = configuration.build_model(config, num_classes)
    optimizer = sgd(config.optimizer, 100)
    rng = np.random.default_rng(0)
    state = jax.tree.map(  # drawn here: initializing would cost a compilation
        lambda x: rng.uniform(0.01, 0.1, x.shape).astype(x.dtype),
        jax.eval_shape(functools.partial(initial_state, model, optimizer, 0)),
    )
    return state, make_train_step(model, optimizer, config.loss, 0)


@pytest.mark.parametrize("name", NAMES + VARIANTS)
def test_every_config_is_complete_and_builds_its_network(name):
    config = load_config(name)
    configuration.check(config)
    classes = {"ade20k": 150, "camvid": 11, "cityscapes": 19, "streets": 13, "voc2012": 21}[config.data.name]
    if config.model.width == 1:
        count = parameters(config.model.flavour, config.model.depth, classes)
        assert count > 49e6
        if classes == 19:  # counted on the running PyTorch networks
            published = {("official", 50): 52_295_783, ("official", 101): 71_287_911}
            published |= {("mmseg", 50): 49_826_055, ("mmseg", 101): 68_818_183}
            assert count == published[config.model.flavour, config.model.depth]


@pytest.mark.parametrize("name", ["camvid", *VARIANTS])
def test_every_config_makes_a_batch_and_takes_a_step(name, miniatures):
    config = load_config(name, data__workers=0, batch_size=2)
    config.data.dir = str(miniatures[config.data.name])
    source = pipeline.open_source(config.data, config.data.train_split)
    assert len(pipeline.open_source(config.data, config.data.eval_split)) > 0
    batch = next(pipeline.train_batches(source, config.data, config.batch_size, config.seed))
    assert batch["image"].shape == (2, *config.data.crop, 3)
    assert batch["label"].shape == (2, *config.data.crop)
    assert (batch["label"] != 255).any()

    values = configuration.flat(config)
    keys = [key for key in values if key.startswith(("model.", "optimizer.", "loss."))]
    changes = tuple(
        (key.replace(".", "__"), values[key]) for key in keys if key not in ("model.depth", "model.width")
    )
    state, step = reduced_step(len(source.classes), changes)
    before = np.asarray(state.variables["params"]["head"]["classifier"]["bias"])
    small = {key: jnp.asarray(value[:, :64, :64]) for key, value in batch.items()}
    after, metrics = step(jax.tree.map(jnp.asarray, state), small)
    assert np.isfinite(float(metrics["loss"]))
    assert float(metrics["loss"]) == pytest.approx(
        float(metrics["main_loss"]) + 0.4 * float(metrics["auxiliary_loss"]), rel=1e-5
    )
    assert (np.asarray(after.variables["params"]["head"]["classifier"]["bias"]) != before).any()


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_is_the_recipe_that_its_name_says(name):
    config, data_set = load_config(name), name.split(":")[0]
    flavour, backbone, crop, schedule = name.split(":")[1].split("-")
    assert config.model.flavour == flavour
    assert f"r{config.model.depth}" == backbone
    assert "x".join(map(str, config.data.crop)) == crop
    assert f"{config.steps // 1000}k" == schedule
    assert (config.model.context, config.model.loops) == ("rcca", 2)
    assert config.batch_size == {"cityscapes": 8, "ade20k": 16, "voc12aug": 16}[data_set]
    rates = config.optimizer
    assert (rates.learning_rate, rates.momentum, rates.power) == (1e-2, 0.9, 0.9)
    official = flavour == "official"
    assert (rates.weight_decay, rates.min_learning_rate) == ((1e-4, 0.0) if official else (5e-4, 1e-4))
    assert config.loss.ohem == (official and data_set != "ade20k")
    assert config.data.cat_max_ratio == (1.0 if official else 0.75)
    assert config.data.distort == (not official)
    if official and data_set == "ade20k":
        assert config.data.short_sides == (300, 375, 450, 525, 600)
        assert config.data.scale is None
    else:
        assert config.data.scale == ((0.75, 2.0) if official else (0.5, 2.0))
        assert config.data.short_sides is None
    slide = (flavour, crop) == ("mmseg", "769x769")
    assert (config.eval_window, config.eval_stride) == (((769, 769), (513, 513)) if slide else (None, None))
    assert config.model.align_corners == (True if slide else None)
    fits = {
        "cityscapes": (2049, 1025) if slide else (2048, 1024),
        "ade20k": (2048, 512),
        "voc12aug": (2048, 512),
    }
    assert config.data.fit == (None if official else fits[data_set])


def test_the_readmes_table_has_every_variant_and_its_published_scores():
    readme = (ROOT / "README.md").read_text()
    for name in NAMES:
        for variant, (*_, miou, ms_flip) in getattr(load_config_file(name), "VARIANTS", {}).items():
            scores = " | ".join("-" if score is None else f"{score:g}" for score in (miou, ms_flip))
            assert f"| `configs/{name}.py:{variant}` | {scores} |" in readme


def test_variants_that_do_not_exist_are_named():
    for name in ("cityscapes", "ade20k", "voc12aug"):
        with pytest.raises(ValueError, match=f"configs/{name}.py has no variant 'r18', but one of official-"):
            load_config(f"{name}:r18")


def test_a_saved_config_comes_back_as_it_was(tmp_path):
    for name in NAMES:
        config = load_config(name)
        configuration.save(config, tmp_path)
        assert configuration.flat(configuration.load(tmp_path)) == configuration.flat(config)


def test_a_run_from_before_some_keys_still_loads(tmp_path):
    config = load_config("demo")
    old = load_config("demo")
    with old.unlocked():
        for key in configuration._DEFAULTS:
            *group, leaf = key.split(".")
            del (old[group[0]] if group else old)[leaf]
    configuration.save(old, tmp_path)
    assert configuration.flat(configuration.load(tmp_path)) == configuration.flat(config)
    configuration.check(configuration.load(tmp_path))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dtype": "float64"}, "dtype='float64' does not exist; choose one of float32, bfloat16"),
        ({"model__depth": 42}, "model.depth=42 does not exist.*101"),
        ({"model__flavour": "keras"}, "model.flavour='keras'.*official"),
        ({"data__name": "kitti"}, "data.name='kitti'.*camvid.*TFDS"),
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
        ({"data__short_sides": (300, 375)}, "set config.data.crop"),
        ({"data__short_sides": (0,), "data__crop": (64, 64)}, "data.short_sides must be lengths"),
        ({"data__fit": (2048,)}, "data.fit must be .long, short. side"),
        ({"data__cat_max_ratio": 0.0}, "data.cat_max_ratio must be above 0"),
        ({"eval_window": (64, 64)}, "eval_window and config.eval_stride go together"),
        ({"eval_window": (64, 64), "eval_stride": (0, 8)}, "eval_stride must be"),
        ({"eval_window": (64, 64), "eval_stride": (64, 65)}, "eval_stride=.64, 65. leaves gaps"),
        ({"data__source": "cloud"}, "data.source='cloud'.*folder, tfds"),
        ({"data__classes": ("a", "b")}, "data.classes is for TFDS data sets"),
        (
            {"data__source": "tfds", "data__features": ("image",)},
            "data.features must be names .image, label.",
        ),
    ],
)
def test_values_that_cannot_be_run_are_named(changes, words):
    with pytest.raises(UserError, match=words):
        configuration.check(load_config("demo", **changes))


def test_a_tuple_is_unset_as_the_command_line_says_it():
    config = load_config("ade20k", data__short_sides=(None,), data__scale=(0.5, 2.0))
    configuration.check(config)
    assert config.data.short_sides is None


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
