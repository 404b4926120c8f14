"""The configuration of a run: the rooms' settings put together.

Every key, its default, its type, what it may hold and what it means stand once, in the dataclass of the room
that uses it. From them come the config that `configs/*.py` start from (`default`), the check (`parse`), what
an old run's config.json lacks, what two configs of one run may differ in, and the table in the manual.
"""

import ast
import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import ml_collections
from ml_collections import config_dict

from ccnet_jax.common.errors import UserError
from ccnet_jax.common.fields import (
    MOST_IMAGES,
    Key,
    fits,
    is_optional,
    is_tuple,
    keys_of,
    nearest,
    plain,
    setting,
)
from ccnet_jax.data.config import DataConfig, does_not_fit_memory
from ccnet_jax.data.datasets import DATASETS
from ccnet_jax.data.sizes import LARGEST, SMALLEST
from ccnet_jax.engine.config import EngineConfig
from ccnet_jax.engine.hosts.config import HostsConfig
from ccnet_jax.evaluation.test_mode import TestMode
from ccnet_jax.models.config import ModelConfig
from ccnet_jax.models.detection.config import DetectionConfig
from ccnet_jax.models.flavours import FLAVOURS
from ccnet_jax.training.losses import LossConfig
from ccnet_jax.training.optimizers import OptimizerConfig


@dataclasses.dataclass(frozen=True)
class Config(EngineConfig):
    """Everything that a run is made from."""

    task: str = setting(
        "semantic",
        "`semantic`, a class for every pixel, or `instance`, a box, a class and a mask for every object",
        choices=lambda: dict.fromkeys(data_set.task for data_set in DATASETS.values()),
        before="semantic",
    )
    accumulate: int = setting(
        1,
        "parts of a batch that go through the network one after the other",
        at_least=1,
        at_most=MOST_IMAGES,
        resumable=True,
        before=1,
    )
    seed: int = setting(
        0, "of initial weights, order, augmentation and dropout", at_least=0, at_most=2**31 - 1
    )
    dtype: str = setting("float32", "of the computation", choices=("float32", "bfloat16"))
    eval_every: int = setting(
        5000, "steps from one validation to the next; 0 validates never", at_least=0, resumable=True
    )
    eval_batch_size: int = setting(
        1, "images that each process tests at once", at_least=1, at_most=MOST_IMAGES, resumable=True
    )
    eval_window: tuple[int, int] | None = setting(
        None,
        "size of sliding windows in testing; None tests whole images",
        sides="(height, width) in pixels",
        at_least=SMALLEST,
        at_most=LARGEST,
        resumable=True,
        before=None,
    )
    eval_stride: tuple[int, int] | None = setting(
        None,
        "distance from one window to the next",
        sides="(down, across) in pixels",
        at_least=1,
        at_most=LARGEST,
        resumable=True,
        before=None,
    )
    pretrained: str | None = setting(
        None,
        "file or run whose backbone weights training starts from, or imagenet, hf:ORG/NAME or https://FILE",
        resumable=True,
        before=None,
    )
    distributed: bool = setting(
        False, "several processes, on one host or many, train together: see `hosts`", resumable=True
    )
    hosts: HostsConfig = dataclasses.field(default_factory=HostsConfig)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    loss: LossConfig = dataclasses.field(default_factory=LossConfig)
    detection: DetectionConfig = dataclasses.field(default_factory=DetectionConfig)

    def problems(self) -> list[str]:
        """Messages about settings that do not go together, of all rooms."""
        found = []
        for group in (self.hosts, self.data, self.model, self.optimizer, self.loss):
            found += group.problems()
        found += self.optimizer.problems_for(self.steps)
        if not self.distributed and without_place(self) != self:
            found.append(
                "config.hosts says where processes meet, but config.distributed is False: set it True"
            )
        found += self._problems_for_task()
        if self.batch_size % self.accumulate:
            found.append(
                f"config.batch_size={self.batch_size} cannot be split into config.accumulate="
                f"{self.accumulate} equal parts; choose a divisor of the batch size"
            )
        window, stride = self.eval_window, self.eval_stride
        if (window is None) != (stride is None):
            found.append("config.eval_window and config.eval_stride go together: set both or neither")
        if window is not None and stride is not None and (stride[0] > window[0] or stride[1] > window[1]):
            found.append(
                f"config.eval_stride={stride} leaves gaps between windows of {window}; make it at most the "
                "window"
            )
        if self.profile is not None and self.profile[0] > self.steps:
            found.append(
                f"config.profile begins at step {self.profile[0]}, after the last of "
                f"config.steps={self.steps}; lower it"
            )
        if problem := does_not_fit_memory(self.batch_size, self.data.crop or (SMALLEST, SMALLEST)):
            found.append(problem)
        return found

    def _problems_for_task(self) -> list[str]:
        """Messages about settings that are another task's."""
        found = []
        if self.data.task not in (None, self.task):
            key = "source" if self.data.source == "tfds" else "name"
            found.append(
                f"config.data.{key}={getattr(self.data, key)!r} is for config.task={self.data.task!r}, not "
                f"{self.task!r}; change one of the two"
            )
        for name, value in flat(to_dict(self)).items():
            if not is_read_by(self.task, name) and value != KEYS[name].default:
                found.append(
                    f"config.{name} is not for config.task={self.task!r}; leave it {KEYS[name].default!r}"
                )
        return found

    def test_mode(self, ms_flip: bool = False) -> TestMode:
        """How images are tested: at one scale, or at the flavour's scales with mirror images."""
        mode = TestMode(self.data.resize, self.eval_window, self.eval_stride)
        return mode.ms_flip(FLAVOURS[self.model.flavour]) if ms_flip else mode


# {task: beginnings of the keys that it does not read}. Instance segmentation sees whole images with a ResNet;
# its losses have no settings. A task without a line reads all keys but those of detection.
_NOT_READ: dict[str, tuple[str, ...]] = {
    "instance": (
        *("loss.", "eval_window", "eval_stride", "model.align_corners", "model.flavour", "model.backbone"),
        *("data.scale", "data.short_sides", "data.crop", "data.cat_max_ratio"),
    )
}

# What each process of a run may have its own of: its number, and what its machine has.
_OF_EACH_PROCESS = ("hosts.", "data.dir", "data.workers", "pretrained", "profile")
KEYS: dict[str, Key] = {key.name: key for key in keys_of(Config)}
_BOOLEANS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
# What other tools call a key.
_ELSEWHERE = {
    "lr": "optimizer.learning_rate",
    "base_lr": "optimizer.learning_rate",
    "min_lr": "optimizer.min_learning_rate",
    "wd": "optimizer.weight_decay",
    "warmup": "optimizer.warmup_steps",
    "epochs": "steps",
    "max_epochs": "steps",
    "iterations": "steps",
    "max_iters": "steps",
    "num_steps": "steps",
    "batch": "batch_size",
    "grad_accum": "accumulate",
    "accumulation_steps": "accumulate",
    "accumulative_counts": "accumulate",
    "samples_per_gpu": "batch_size",
    "num_workers": "data.workers",
    "workers_per_gpu": "data.workers",
    "num_classes": "data.classes",
    "classes": "data.classes",
    "dataset": "data.name",
    "data_root": "data.dir",
    "crop_size": "data.crop",
    "rotate": "data.flip",
    "recurrence": "model.loops",
    "precision": "dtype",
    "trace": "profile",
    "profiler": "profile",
    "coordinator_address": "hosts.coordinator",
    "num_processes": "hosts.processes",
    "process_id": "hosts.process",
    "world_size": "hosts.processes",
    "rank": "hosts.process",
    "initialization_timeout": "hosts.wait_seconds",
    "aux_weight": "loss.auxiliary_weight",
}


def is_read_by(task: str, name: str) -> bool:
    """Whether a task reads the key of a dotted name."""
    return not name.startswith(_NOT_READ.get(task, ("detection.",)))


def default() -> ml_collections.ConfigDict:
    """A config with every key and its default, to change key by key."""
    return to_config_dict(Config())


def to_config_dict(config: Config) -> ml_collections.ConfigDict:
    """A `Config` as the ConfigDict that `parse` reads; it takes no key that does not exist."""
    result = ml_collections.ConfigDict(to_dict(config))
    for name, value in flat(result).items():
        if value is None:  # a placeholder keeps the type: a wrong value is refused where it is assigned
            hint = plain(KEYS[name].hint)
            group, _, leaf = name.rpartition(".")
            (result[group] if group else result)[leaf] = config_dict.placeholder(
                tuple if is_tuple(hint) else hint
            )
    return result.lock()


def to_dict(config: Config) -> dict[str, Any]:
    """Nested dictionaries and plain values, for JSON."""
    return dataclasses.asdict(config)


def flat(values: Mapping[str, Any] | ml_collections.ConfigDict) -> dict[str, Any]:
    """{"data.name": "streets", ...}: every leaf of nested dictionaries under its dotted key."""
    leaves: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping | ml_collections.ConfigDict):
            leaves |= {f"{key}.{inner}": leaf for inner, leaf in flat(value).items()}
        else:
            leaves[key] = value
    return leaves


def parse(
    values: Mapping[str, Any] | ml_collections.ConfigDict,
    overrides: Mapping[str, str] | None = None,
    made_elsewhere: bool = False,
) -> Config:
    """The checked config.

    Args:
      values: nested, as `default()` or a config.json. Keys that an earlier version did not have get the value
        of what it did.
      overrides: {dotted key: text}, from the command line.
      made_elsewhere: the config is that of a run: it may name a data set, a backend, a loss, an optimizer or
        a schedule that this installation does not have, since a trained network does not need them.

    Raises:
      UserError: one message for each mistake.
    """
    found = {name: _without_lists(value) for name, value in flat(values).items()}
    problems = [_unknown_key(name) for name in found if name not in KEYS]
    wrong = 0  # keys that exist and have no allowed value
    for name, text in (overrides or {}).items():
        if name not in KEYS:
            problems.append(_unknown_key(name))
            continue
        try:
            found[name] = value_from_text(text, name)
        except ValueError:
            given = f"not {text!r}" if text else "and has no value"
            problems.append(f"config.{name} must be {KEYS[name].allowed_text()}, {given}")
            wrong += 1
    for name, key in KEYS.items():
        if name not in found and key.setting.is_required:
            problems.append(f"the config has no key {name}; start from ccnet_jax.config.default()")
            wrong += 1
        elif problem := key.problem(found.setdefault(name, key.setting.before), not made_elsewhere):
            problems.append(problem)
            wrong += 1
    if not wrong:  # otherwise nothing can be said about values that go together
        config = _built(Config, found)
        problems += config.problems() + ([] if made_elsewhere else config.data.unknown_name())
    if problems:
        raise UserError(in_one_message(problems))
    return config


def no_config(values: Any) -> str | None:
    """Words that say in which way a JSON value is no config at all, None where it looks like one.

    `parse` would list every key that is missing.
    """
    if not isinstance(values, Mapping):
        return f"holds no config, but {json.dumps(values)[:40]}"
    groups = [field.name for field in dataclasses.fields(Config) if isinstance(field.default_factory, type)]
    if not set(groups) & set(values):
        return f"holds no config: it has none of the groups {', '.join(groups)}"
    for name in groups:
        if name in values and not isinstance(values[name], Mapping):
            return f"has as its group {name!r} no keys, but {json.dumps(values[name])[:40]}"
    return None


def check(config: Config) -> Config:
    """The config, after the check that `parse` makes; for configs with changed fields. Raises UserError."""
    return parse(to_dict(config), made_elsewhere=True)


def in_one_message(problems: list[str]) -> str:
    """One message, or several in a list."""
    if len(problems) == 1:
        return problems[0]
    return "\n  - ".join([f"the config has {len(problems)} mistakes:", *problems])


def shared_values(config: Config) -> dict[str, str]:
    """What all processes of a run must have alike: {key: value as text}."""
    values = flat(to_dict(config)).items()
    return {f"config.{name}": repr(value) for name, value in values if not name.startswith(_OF_EACH_PROCESS)}


def without_place(config: Config) -> Config:
    """The config as a run keeps it: where its processes meet is another matter at each start."""
    hosts = dataclasses.replace(config.hosts, coordinator=None, processes=None, process=None)
    return dataclasses.replace(config, hosts=hosts)


def different_keys(here: Config, there: Config) -> list[str]:
    """The keys in which two configs of one run must not differ, and do."""
    one, other = flat(to_dict(here)), flat(to_dict(there))
    return [name for name, key in KEYS.items() if not key.setting.resumable and one[name] != other[name]]


def key_table() -> str:
    """Every key as a Markdown table: default, allowed values, meaning, whether a run may change it."""
    lines = ["| key | default | allowed | meaning | resume with another |", "|---|---|---|---|---|"]
    for name, key in KEYS.items():
        choices = [f"`{value}`" for value in key.setting.allowed_values()]
        allowed = ", ".join([*choices, "`None`"] if choices and is_optional(key.hint) else choices)
        allowed = allowed or key.allowed_text().replace(" that is ", ", ")
        resume = "yes" if key.setting.resumable else "no"
        lines.append(f"| `{name}` | `{key.default}` | {allowed} | {key.setting.meaning} | {resume} |")
    return "\n".join(lines) + "\n"


def _built(group: type, values: dict[str, Any], prefix: str = "") -> Any:
    """A config dataclass from its flat values."""
    arguments = {}
    for field in dataclasses.fields(group):
        name, nested = prefix + field.name, field.default_factory
        if isinstance(nested, type):
            arguments[field.name] = _built(nested, values, f"{name}.")
        else:
            arguments[field.name] = values[name]
    return group(**arguments)


def _without_lists(value: Any) -> Any:
    """Lists, JSON's form of tuples, as tuples."""
    return tuple(map(_without_lists, value)) if isinstance(value, list | tuple) else value


def value_from_text(text: str, name: str) -> Any:
    """The value that a text on the command line means for a key.

    Raises ValueError where the text is none of the key's type.
    """
    key = KEYS[name]
    hint = plain(key.hint)
    if text == "None" and is_optional(key.hint):
        return None
    if hint is bool:
        if (text or "true").lower() not in _BOOLEANS:  # a key without a value turns it on
            raise ValueError(text)
        return _BOOLEANS[(text or "true").lower()]
    if not text:
        raise ValueError(text)
    if hint is str:
        return text
    if hint in (int, float):
        return hint(text)
    try:
        value = ast.literal_eval(text.replace(key.setting.separator, ","))
    except (ValueError, SyntaxError):
        value = tuple(part.strip() for part in text.split(","))  # names without quotation marks
    value = _without_lists(value if isinstance(value, list | tuple) else (value,))
    if not fits(value, key.hint):
        raise ValueError(text)
    return value


def _unknown_key(name: str) -> str:
    """A message about a key that does not exist, with the nearest that does."""
    inside = [key.rpartition(".")[2] for key in KEYS if key.startswith(f"{name}.")]
    if inside:
        return f"config.{name} is a group of keys; set one of its keys {', '.join(inside)}"
    leaf = name.split(".")[-1]
    elsewhere = _ELSEWHERE | {key.rpartition(".")[2]: key for key in KEYS if not key.endswith(".name")}
    if leaf in elsewhere:
        meant = KEYS[elsewhere[leaf]]
        return f"config.{name} does not exist; did you mean config.{meant.name} ({meant.setting.meaning})?"
    group = name.rpartition(".")[0]
    inside = [key for key in KEYS if group and key.startswith(f"{group}.")]
    if inside:
        leaves = [key.rpartition(".")[2] for key in inside]
        suggestion = nearest(leaf, leaves)
        return f"config.{name} does not exist; config.{group} has {', '.join(leaves)}{suggestion}"
    suggestion = nearest(name, KEYS) or nearest(leaf, [key.rpartition(".")[2] for key in KEYS])
    groups = dict.fromkeys(key.split(".")[0] for key in KEYS)
    return f"config.{name} does not exist; the config has {', '.join(groups)}{suggestion}"
