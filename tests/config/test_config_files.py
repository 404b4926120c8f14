"""Every config: complete, buildable, able to make a batch of its data and to take a step; and bad values."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccnet_jax.common.errors import UserError
from ccnet_jax.config import config as configuration
from ccnet_jax.config import config_files
from ccnet_jax.config.config_files import ConfigName
from ccnet_jax.data import pipeline
from ccnet_jax.models.config import build_network
from ccnet_jax.training.optimizers import build_optimizer
from ccnet_jax.training.semantic_loss import make_loss
from ccnet_jax.training.step import initial_state, make_train_step
from tests.helpers import ROOT, load_config

pytestmark = pytest.mark.slow

NAMES = config_files.names()
SCORES = {
    f"{name}:{variant}": row[-2:]
    for name in NAMES
    for variant, row in config_files.variants(config_files.folder() / f"{name}.py").items()
}
VARIANTS = [name for name in SCORES if load_config(name).task == "semantic"]
PUBLISHED = [name for name in VARIANTS if not name.startswith("camvid:")]  # recipes of others


@functools.cache
def parameters(flavour, depth, num_classes, **model):
    """The number of parameters of the network at full size, built abstractly."""
    config = load_config("demo", model__flavour=flavour, model__depth=depth, model__width=1.0, **model)
    network = build_network(config.model, num_classes, config.dtype)
    variables = jax.eval_shape(
        lambda x: network.init(jax.random.key(0), x), jax.ShapeDtypeStruct((1, 64, 64, 3), "uint8")
    )
    return sum(x.size for x in jax.tree.leaves(variables["params"]))


@functools.cache
def reduced_step(changes):
    """(state, step function) of the recipe's network at a sixteenth of the width and ten layers.

    It has classes enough for every data set: a program for each number of them would be compiled anew.
    """
    config = load_config("demo", **dict(changes), model__width=1 / 16, model__depth=10)
    model = build_network(config.model, 150, config.dtype)
    optimizer = build_optimizer(config.optimizer, 100)
    rng = np.random.default_rng(0)
    state = jax.tree.map(  # drawn here: initializing would cost a compilation
        lambda x: rng.uniform(0.01, 0.1, x.shape).astype(x.dtype),
        jax.eval_shape(functools.partial(initial_state, model, optimizer, 0)),
    )
    return state, make_train_step(make_loss(model, config.loss), optimizer, 0)


@pytest.mark.parametrize("name", NAMES + VARIANTS)
def test_every_config_is_complete_and_builds_its_network(name):
    config = load_config(name)
    if config.task != "semantic":
        return  # tests/test_instances.py builds it
    classes = {"ade20k": 150, "camvid": 11, "cityscapes": 19, "voc2012": 21}.get(config.data.name, 13)
    if config.model.width == 1:
        count = parameters(config.model.flavour, config.model.depth, classes)
        assert count > 49e6
        if classes == 19:  # counted on the running PyTorch networks
            published = {("official", 50): 52_295_783, ("official", 101): 71_287_911}
            published |= {("mmseg", 50): 49_826_055, ("mmseg", 101): 68_818_183}
            assert count == published[config.model.flavour, config.model.depth]


@pytest.mark.parametrize("name", VARIANTS)
def test_every_config_makes_a_batch_and_takes_a_step(name, miniatures):
    data_set = load_config(name).data.name
    config = load_config(name, data__workers=0, batch_size=2, data__dir=str(miniatures[data_set]))
    source = pipeline.open_source(config.data, config.data.train_split)
    assert len(pipeline.open_source(config.data, config.data.eval_split)) > 0
    batch = next(pipeline.train_batches(source, config.data, config.batch_size, config.seed))
    assert batch["image"].shape == (2, *config.data.crop, 3)
    assert batch["label"].shape == (2, *config.data.crop)
    assert (batch["label"] != 255).any()

    values = configuration.flat(configuration.to_dict(config))
    keys = [key for key in values if key.startswith(("model.", "loss."))]
    changes = tuple(
        (key.replace(".", "__"), values[key]) for key in keys if key not in ("model.depth", "model.width")
    )
    state, step = reduced_step(changes)
    before = np.asarray(state.variables["params"]["head"]["classifier"]["bias"])
    small = {key: jnp.asarray(value[:, :64, :64]) for key, value in batch.items()}
    after, metrics = step(jax.tree.map(jnp.asarray, state), small)
    assert np.isfinite(float(metrics["loss"]))
    assert float(metrics["loss"]) == pytest.approx(
        float(metrics["main_loss"]) + 0.4 * float(metrics["auxiliary_loss"]), rel=1e-5
    )
    assert (np.asarray(after.variables["params"]["head"]["classifier"]["bias"]) != before).any()


@pytest.mark.parametrize("name", PUBLISHED)
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
    ends = ("labelled", "after_last_step") if official else ("all", "last_step")
    assert (config.loss.average_over, rates.poly_end) == ends
    assert config.loss.name == ("ohem" if official and data_set != "ade20k" else "cross_entropy")
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
    assert config.data.resize == (None if official else fits[data_set])


def test_the_table_of_results_has_every_variant_and_its_published_scores():
    page = (ROOT / "docs" / "results.md").read_text()
    for variant in PUBLISHED:
        scores = " | ".join("-" if score is None else f"{score:g}" for score in SCORES[variant])
        assert f"| `{variant}` | {scores} | " in page


def test_the_listing_has_every_config_and_variant_with_its_scores():
    lines = config_files.list_configs().splitlines()
    for name in NAMES:
        assert any(line.startswith(f"{name} ") for line in lines)
    for variant, row in SCORES.items():
        scores = ["-" if score is None else f"{score:.2f}" for score in row]
        assert [*next(line for line in lines if line.startswith(f"{variant} ")).split()] == [variant, *scores]


def test_variants_and_files_that_do_not_exist_are_named():
    for name in ("cityscapes", "ade20k", "voc12aug"):
        with pytest.raises(UserError, match=f"{name}.py has no variant 'r18', but one of official-"):
            load_config(f"{name}:r18")
    with pytest.raises(
        UserError, match="no file citiscapes and no config of that name.*did you mean cityscapes"
    ):
        ConfigName.of("citiscapes")
    with pytest.raises(UserError, match="no file nowhere/demo.py"):
        ConfigName.of("nowhere/demo.py")


def test_a_config_is_found_by_name_and_by_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    by_name, by_path = ConfigName.of("cityscapes:x"), ConfigName.of(f"{ROOT}/configs/cityscapes.py:x")
    assert by_name.path.samefile(by_path.path)
    assert by_name.variant == by_path.variant == "x"
    assert (by_name.title, ConfigName.of("demo").variant) == ("cityscapes", None)
    assert ConfigName.of(f"{ROOT}/configs/cityscapes:x") == by_path  # without its suffix
    for name in ("demo", "mine"):
        (tmp_path / f"{name}.py").write_text("")
    assert ConfigName.of("demo").path.samefile(f"{ROOT}/configs/demo.py")
    assert ConfigName.of("mine").path.samefile(tmp_path / "mine.py")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("\ndef get_config(:", "line 2: SyntaxError: invalid syntax; correct that file"),
        (
            "import os\nimport nothing_of_that_name",
            "line 2: ModuleNotFoundError: No module named 'nothing_of_t",
        ),
        ("from ccnet_jax import nothing", "line 1: ImportError: cannot import name 'nothing'"),
        (
            "def get_config():\n  x = 1\n  return x / 0",
            "line 3: ZeroDivisionError: division by zero; correct",
        ),
        ("import json\ndef get_config(): return json.loads('{')", "line 2: JSONDecodeError: Expecting"),
        ("def get_config():\n  assert False", "line 2: AssertionError; correct that file"),
        ("import sys\nsys.exit(0)", "line 2: SystemExit: 0; correct that file"),
        ("def get_config(variant): return variant", "needs a variant, .*mine.py:VARIANT"),
        ("x = 1", "has no function get_config"),
        ("def get_config(): return 3", "get_config returns int, not a ConfigDict"),
        (
            "from ccnet_jax.config import default\ndef get_config():\n  c = default()\n  c.model.dept = 3\n",
            "Did you mean .depth",
        ),
    ],
)
def test_a_users_file_that_is_no_config_is_named(text, words, tmp_path):
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(UserError, match=f"mine.py.*{words}"):
        config_files.load(ConfigName.of(str(tmp_path / "mine.py")))


@pytest.mark.parametrize("text", ["\n\nint('x')\n", "def get_config():\n  import json\n  json.loads('')\n"])
def test_the_line_is_named_however_the_file_is(text, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^mine.py, line 3: (ValueError|JSONDecodeError): "):
        config_files.load(ConfigName.of("mine.py"))


def test_a_variant_of_a_config_without_any_is_named():
    with pytest.raises(UserError, match="demo.py has no variants; omit :r18"):
        load_config("demo:r18")


def test_configs_say_only_what_differs_and_share_no_block():
    """At most 60 lines each; no three assignments in a row stand in two files."""
    blocks = {}
    for name in NAMES:
        lines = (config_files.folder() / f"{name}.py").read_text().splitlines()
        assert len(lines) <= 60, name
        assignments = [line.strip() for line in lines if line.strip().startswith("config.")]
        for i in range(len(assignments) - 2):
            block = tuple(assignments[i : i + 3])
            assert blocks.setdefault(block, name) == name, block
