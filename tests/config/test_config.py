"""The config: what it starts from, what it refuses, what old files and command lines mean in it."""

import json
import math
import typing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ccnet_jax.common import fields
from ccnet_jax.common.errors import UserError
from ccnet_jax.common.fields import is_optional, plain
from ccnet_jax.config import config as configuration
from ccnet_jax.config import config_files, records
from ccnet_jax.config.config import KEYS, Config, parse
from ccnet_jax.data.config import DataConfig
from ccnet_jax.engine.folder import RunFolder
from ccnet_jax.tasks.preparation import check_devices
from tests.helpers import ROOT, load_config

pytestmark = pytest.mark.slow


def test_the_default_config_has_every_key_and_is_valid():
    values = configuration.flat(configuration.default())
    assert sorted(values) == sorted(KEYS)
    assert parse(configuration.default()) == Config()


def test_every_key_is_described_and_its_default_allowed():
    for name, key in KEYS.items():
        assert key.setting.meaning, name
        assert "\n" not in key.setting.meaning
        assert key.problem(key.default) is None, name


def test_the_promised_keys_exist():
    """Names that users of earlier versions rely on."""
    promised = [
        "steps",
        "batch_size",
        "seed",
        "dtype",
        "eval_every",
        "checkpoint_every",
        "pretrained",
        "distributed",
    ]
    promised += [f"data.{key}" for key in ["name", "dir", "source", "crop"]]
    promised += [
        f"model.{key}" for key in ["depth", "flavour", "context", "loops", "width", "implementation", "remat"]
    ]
    promised += [
        f"optimizer.{key}"
        for key in ["learning_rate", "momentum", "weight_decay", "power", "min_learning_rate"]
    ]
    promised += ["loss.auxiliary_weight"]
    assert set(promised) <= set(KEYS)


def test_the_manuals_table_of_keys_is_not_stale():
    page = (ROOT / "docs" / "train.md").read_text()
    assert configuration.key_table() in page, "run: python -m ccnet_jax.config.config_table"


@pytest.mark.parametrize("name", config_files.names())
def test_a_saved_config_comes_back_as_it_was(name, tmp_path):
    config, run = load_config(name), RunFolder(tmp_path)
    records.save_config(run, config)
    assert records.load_config(run) == config


def old_config(tmp_path):
    """A run's config.json from before there were any keys that a config may lack."""
    new = configuration.flat(configuration.to_dict(load_config("demo")))
    lacking = {name for name, key in KEYS.items() if not key.setting.is_required}
    old = {name: value for name, value in new.items() if name not in lacking}
    nested = {}
    for name, value in old.items():
        group, _, leaf = name.rpartition(".")
        (nested.setdefault(group, {}) if group else nested)[leaf] = value
    return nested


def test_a_run_without_the_newer_keys_loads(tmp_path):
    old, run = old_config(tmp_path), RunFolder(tmp_path)
    run.config_file.write_text(json.dumps(old))
    assert records.load_config(run) == load_config("demo")
    records.check_same_run(run, load_config("demo"))


def test_a_config_that_lacks_what_every_version_had_is_corrupt(tmp_path):
    old, run = old_config(tmp_path), RunFolder(tmp_path)
    del old["model"]["loops"]
    run.config_file.write_text(json.dumps(old))
    with pytest.raises(UserError, match=r"config.json: the config has no key model.loops"):
        records.load_config(run)
    run.config_file.write_text("{")
    with pytest.raises(UserError, match=r"config.json cannot be read as JSON"):
        records.load_config(run)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dtype": "float64"}, "dtype='float64' does not exist; choose one of float32, bfloat16"),
        ({"model__depth": 42}, "model.depth=42.*101"),
        ({"model__flavour": "keras"}, "model.flavour='keras'.*official"),
        ({"data__name": "kitti"}, "data.name='kitti'.*camvid.*TFDS"),
        ({"steps": 0}, "steps must be a whole number that is at least 1, not 0"),
        ({"steps": 1.5}, "steps must be a whole number that is at least 1, not 1.5"),
        ({"steps": True}, "steps must be a whole number that is at least 1, not True"),
        ({"seed": -1}, "seed must be .*at least 0"),
        ({"data__workers": -1}, "data.workers must be .*at least 0"),
        ({"model__width": 0}, "model.width must be a number that is above 0"),
        ({"model__width": math.inf}, "model.width must be .*not inf"),
        ({"model__implementation": "cuda"}, "model.implementation='cuda'.*xla"),
        ({"data__crop": (16, 64)}, "data.crop must be .height, width. in pixels, each at least 32"),
        ({"data__crop": (64, 64, 0)}, "data.crop must be .height, width."),
        ({"data__crop": (48.5, 64)}, "data.crop must be"),
        ({"data__crop": (64, 2**16)}, "data.crop must be .*at most 32768"),
        ({"data__scale": (2.0, 0.5), "data__crop": (64, 64)}, "data.scale must be .lowest, highest."),
        ({"data__scale": (1.0, 2.0, 3.0), "data__crop": (64, 64)}, "data.scale must be"),
        ({"data__scale": (0.5, 1e4), "data__crop": (64, 64)}, "data.scale must be .*at most 1024"),
        ({"data__scale": (math.nan, 2.0), "data__crop": (64, 64)}, "data.scale must be"),
        ({"data__scale": (0.5, 2.0)}, "set config.data.crop"),
        (
            {"data__scale": (0.1, 2.0), "data__resize": (128, 64), "data__crop": (64, 64)},
            r"data.resize=\(128, 64\) times config.data.scale=.* gives sides of 6 to 256 pixels",
        ),
        ({"data__short_sides": (300, 375)}, "set config.data.crop"),
        ({"data__short_sides": (0,), "data__crop": (64, 64)}, "data.short_sides must be lengths"),
        ({"data__resize": (2048,)}, "data.resize must be .long, short. sides"),
        ({"data__resize": (2048, 16)}, "data.resize must be .*each at least 32"),
        ({"data__cat_max_ratio": 0.0}, "data.cat_max_ratio must be .*above 0 and at most 1"),
        ({"data__cat_max_ratio": 1.5}, "data.cat_max_ratio must be .*at most 1"),
        ({"profile": (0, 5)}, r"profile must be STEP:COUNT, in files \(step, count\), each at least 1"),
        ({"profile": (9, 5), "steps": 8}, "profile begins at step 9, after the last of config.steps=8"),
        ({"eval_window": (64, 64)}, "eval_window and config.eval_stride go together"),
        ({"eval_window": (64, 64), "eval_stride": (0, 8)}, "eval_stride must be"),
        ({"eval_window": (64, 64), "eval_stride": (64, 65)}, "eval_stride=.64, 65. leaves gaps"),
        ({"data__source": "cloud"}, "data.source='cloud'.*folder, tfds"),
        ({"data__features": ("image", "label")}, "data.features is for TFDS data sets"),
        ({"data__source": "tfds", "data__features": ("image",)}, "data.features must be 2 texts"),
        ({"optimizer__momentum": 1.0}, "optimizer.momentum must be .*at least 0 and below 1"),
        ({"optimizer__momentum": math.nan}, "optimizer.momentum must be .*not nan"),
        ({"optimizer__weight_decay": -1e-4}, "optimizer.weight_decay must be .*at least 0"),
        ({"optimizer__learning_rate": 0}, "optimizer.learning_rate must be .*above 0"),
        ({"optimizer__min_learning_rate": 1.0}, "min_learning_rate=1.0 must be at most .*learning_rate=0.3"),
        ({"loss__auxiliary_weight": -0.4}, "loss.auxiliary_weight must be .*at least 0"),
        ({"loss__ohem_threshold": 1.1}, "loss.ohem_threshold must be .*at most 1"),
        ({"hosts__coordinator": "node1", "distributed": True}, "hosts.coordinator=node1 must be HOST:PORT"),
        (
            {"hosts__process": 2, "hosts__processes": 2, "distributed": True},
            "hosts.process=2 must be below config.hosts.processes=2; processes are numbered from 0",
        ),
        ({"hosts__processes": 2}, "config.hosts says where processes meet, but config.distributed is False"),
        ({"batch_size": 2**16, "data__crop": (2048, 2048)}, "batch_size=65536 needs [0-9,.]+ GB"),
        ({"data__palette": ((0, 0, 300),), "data__classes": ("a",)}, "data.palette must be .*at most 255"),
        (
            {"data__palette": ((0, 0, 0),), "data__name": "folder"},
            "data.palette has 1 colours but config.data.classes 0 names",
        ),
    ],
)
def test_values_that_cannot_be_run_are_named(changes, words):
    with pytest.raises(UserError, match=words) as error:
        load_config("demo", **changes)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "1e999"])
def test_no_number_on_the_command_line_is_infinite_or_none(text):
    """They would be told as a bad loss, hours later."""
    numbers = [name for name, key in KEYS.items() if plain(key.hint) in (int, float)]
    assert "optimizer.learning_rate" in numbers
    for name in numbers:
        with pytest.raises(UserError, match=f"config.{name} must be .*, not "):
            parse(configuration.default(), {name: text})


def test_several_mistakes_are_reported_together():
    overrides = {"lr": "3", "model.dept": "18", "model.context": "rca", "steps": "many", "batch_size": "-1"}
    with pytest.raises(UserError) as error:
        parse(configuration.default(), overrides)
    first, *rest = str(error.value).splitlines()
    assert first == "the config has 5 mistakes:"
    for line, words in zip(
        rest,
        [
            "config.lr does not exist; did you mean config.optimizer.learning_rate",
            "config.model.dept does not exist",
            "config.steps must be a whole number",
            "config.batch_size must be a whole number that is at least 1",
            "config.model.context='rca' does not exist; choose one of none, rcca",
        ],
        strict=True,
    ):
        assert words in line
    assert "did you mean depth?" in rest[1]


@pytest.mark.parametrize(
    ("elsewhere", "here"),
    [
        ("lr", "optimizer.learning_rate"),
        ("optimizer.lr", "optimizer.learning_rate"),
        ("epochs", "steps"),
        ("batch", "batch_size"),
        ("num_classes", "data.classes"),
        ("distributed.coordinator", "hosts.coordinator"),
        ("data.batch_size", "batch_size"),
        ("stepz", "steps"),
        ("optimiser.momentum", "optimizer.momentum"),
    ],
)
def test_keys_of_other_tools_lead_to_ours(elsewhere, here):
    with pytest.raises(UserError, match=f"config.{elsewhere} does not exist.*did you mean (config.)?{here}"):
        parse(configuration.default(), {elsewhere: "1"})


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("data.crop", "(64, 96)", (64, 96)),
        ("data.crop", "64,96", (64, 96)),
        ("data.crop", "None", None),
        ("data.short_sides", "(96,)", (96,)),
        ("data.short_sides", "96", (96,)),
        ("data.classes", "('sky', 'road')", ("sky", "road")),
        ("data.classes", "sky, road", ("sky", "road")),
        ("data.palette", "((0, 0, 0), (1, 2, 3))", ((0, 0, 0), (1, 2, 3))),
        ("data.resize", "(2048, 512)", (2048, 512)),
        ("model.remat", "norms", "norms"),
        ("profile", "100:5", (100, 5)),
        ("profile", "(100, 5)", (100, 5)),
        ("model.align_corners", "False", False),
        ("model.align_corners", "None", None),
        ("optimizer.learning_rate", "1", 1.0),
        ("steps", "60_000", 60_000),
        ("loss.name", "ohem", "ohem"),
        ("pretrained", "None", None),
    ],
)
def test_values_on_the_command_line(key, text, value):
    overrides = {key: text}
    if key == "data.short_sides":
        overrides["data.crop"] = "(64, 64)"
    if key in ("data.classes", "data.palette"):
        overrides |= {"data.classes": "sky, road", "data.name": "folder"} | {key: text}
    values = configuration.flat(configuration.to_dict(parse(configuration.default(), overrides)))
    assert values[key] == value
    assert type(values[key]) is type(value)


def values_of(key):
    """Values that the key allows."""
    allowed, hint, bounds = key.setting.allowed_values(), plain(key.hint), key.setting
    low = bounds.at_least if bounds.at_least is not None else bounds.above or 0
    high = bounds.at_most if bounds.at_most is not None else bounds.below or 10**6
    numbers = {
        float: st.floats(
            low, high, exclude_min=bounds.above is not None, exclude_max=bounds.below is not None
        ),
        int: st.integers(math.ceil(low), int(high)),
        str: st.text("abc/._-", min_size=1),
        bool: st.booleans(),
    }
    if allowed:
        values = st.sampled_from(allowed)
    elif hint in numbers:
        values = numbers[hint]
    else:
        first, *rest = typing.get_args(hint)
        items = numbers[int] if typing.get_origin(first) is tuple else numbers[first]
        items = st.tuples(items, items, items) if typing.get_origin(first) is tuple else items
        size = {"max_size": 5} if rest == [...] else {"max_size": len(rest) + 1}
        size["min_size"] = 1 if rest == [...] else len(rest) + 1
        values = st.lists(items, **size).map(tuple)
    return st.none() | values if is_optional(key.hint) else values


@pytest.mark.parametrize("name", KEYS)
def test_every_allowed_value_survives_the_command_line_and_json(name):
    key = KEYS[name]

    @settings(max_examples=20, deadline=None)
    @given(values_of(key))
    def check(value):
        assert key.problem(value) is None
        assert configuration.value_from_text(str(value), name) == value
        assert configuration._without_lists(json.loads(json.dumps(value))) == value

    check()


def test_a_run_made_elsewhere_may_hold_what_this_installation_does_not_know():
    unknown = {"data__name": "mine", "loss__name": "mine", "optimizer__name": "mine"}
    values = configuration.flat(configuration.to_dict(load_config("demo")))
    values |= {key.replace("__", "."): value for key, value in unknown.items()}
    assert parse(values, made_elsewhere=True).data.name == "mine"
    with pytest.raises(UserError, match="has 2 mistakes"):
        parse(values)
    values["model.context"] = "mine"  # without it the network cannot be built
    with pytest.raises(UserError, match="model.context='mine'"):
        parse(values, made_elsewhere=True)


def test_what_a_run_may_go_on_with():
    config = load_config("demo")
    for name in ("steps", "eval_every", "data.dir", "model.implementation", "model.remat", "pretrained"):
        assert KEYS[name].setting.resumable
    for name in ("batch_size", "seed", "model.loops", "optimizer.learning_rate", "loss.name", "data.crop"):
        assert not KEYS[name].setting.resumable
    assert configuration.different_keys(config, load_config("demo", steps=3, data__dir="x")) == []
    other = load_config("demo", seed=1, model__loops=1)
    assert configuration.different_keys(config, other) == ["seed", "model.loops"]


def test_an_implementation_that_this_device_lacks_is_refused():
    check_devices(load_config("demo", model__implementation="xla"))
    with pytest.raises(UserError, match=r"model.implementation='triton' needs an NVIDIA GPU.*None"):
        check_devices(load_config("demo", model__implementation="triton"))


@pytest.mark.parametrize(
    ("trained_with", "evaluated_with"),
    [("triton", None), ("of another JAX", None), ("xla", "xla"), (None, None)],
)
def test_a_run_from_a_gpu_is_evaluated_with_what_runs_here(trained_with, evaluated_with, tmp_path):
    run = RunFolder(tmp_path)
    records.save_config(run, load_config("demo"))
    values = json.loads(run.config_file.read_text())
    values["model"]["implementation"] = trained_with
    run.config_file.write_text(json.dumps(values))
    assert records.load_config(run).model.implementation == evaluated_with


def test_settings_are_frozen():
    with pytest.raises(AttributeError):
        load_config("demo").steps = 3
    with pytest.raises(AttributeError):
        DataConfig().name = "camvid"


def test_a_group_and_a_key_without_a_value_are_told_apart():
    with pytest.raises(
        UserError, match="config.optimizer is a group of keys; set one of its keys schedule, "
    ):
        parse(configuration.default(), {"optimizer": "3"})
    with pytest.raises(UserError, match="config.steps must be a whole number .* and has no value"):
        parse(configuration.default(), {"steps": ""})
    assert parse(configuration.default(), {"data.distort": ""}).data.distort is True


def test_a_batch_that_cannot_be_accumulated_gets_a_message():
    assert parse(configuration.default(), {"accumulate": "4"}).accumulate == 4
    with pytest.raises(UserError, match="batch_size=8 cannot be split into config.accumulate=3 equal parts"):
        parse(configuration.default(), {"accumulate": "3"})


@pytest.mark.parametrize("name", [name for name in KEYS if "." in name])
def test_a_misplaced_key_is_explained_by_words_that_stand_alone(name):
    """The meaning stands in the message without the column of allowed values beside it."""
    meaning = KEYS[name].setting.meaning.removeprefix("of `folder`: ")
    assert meaning.split()[0] not in ("of", "from", "in", "to", "for", "with", "by", "at")


def filled(hint, number):
    """A value of a type hint whose numbers are all this one; None where it has no numbers."""
    hint = plain(hint)
    if fields.is_plain_tuple(hint):
        parts = [filled(part, number) for part in typing.get_args(hint) if part is not ...]
        return None if None in parts else tuple(parts)
    return number if hint in (int, float) else None


NUMBERS = [key for key in KEYS.values() if filled(key.hint, 1) is not None]


@pytest.mark.parametrize("key", NUMBERS, ids=lambda key: key.name)
@pytest.mark.parametrize(
    "number",
    [10**20, -(10**20), 10**400, 10**5000, 1e31, math.nan],
    ids=["1e20", "-1e20", "1e400", "1e5000", "1e31", "nan"],
)
def test_every_number_has_an_upper_bound(key, number):
    """None hangs, or ends in a traceback, however large it is."""
    problem = key.problem(filled(key.hint, number))
    if number == 10**20 and not fields.is_whole(key.hint):
        return  # float32 holds it
    assert problem.startswith(f"config.{key.name}")
    assert len(problem) < 350


def test_a_number_of_thousands_of_digits_on_the_command_line(tmp_path, monkeypatch):
    """Python refuses to read it."""
    for key in ("steps", "optimizer.learning_rate", "data.crop"):
        with pytest.raises(UserError, match=key.rpartition(".")[2]):
            parse(configuration.default(), {key: "9" * 5000})
