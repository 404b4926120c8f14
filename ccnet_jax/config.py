"""The configuration of a run: what its keys may hold, how it is kept, the network it describes."""

import json
import pathlib
from typing import Any

import jax.numpy as jnp
import ml_collections

from ccnet_jax.data.pipeline import DATASETS
from ccnet_jax.errors import UserError
from ccnet_jax.models.ccnet import FLAVOURS, CCNet
from ccnet_jax.models.context import CONTEXTS
from ccnet_jax.models.resnet import BLOCKS
from kernels.criss_cross import IMPLEMENTATIONS

# Every key, and what it takes; None in a tuple of types stands for "not set".
_NUMBER = (int, float)
_KEYS: dict[str, tuple] = {
    "steps": (int,),  # updates
    "batch_size": (int,),  # pictures an update, over all devices
    "seed": (int,),  # of initial weights, order, augmentation and dropout
    "dtype": (str,),  # of the computation: float32 or bfloat16
    "log_every": (int,),  # updates
    "eval_every": (int,),  # updates between validations; 0 validates never
    "eval_batch_size": (int,),  # pictures, of each process
    "checkpoint_every": (int,),  # updates
    "distributed": (bool,),  # several hosts: call jax.distributed.initialize()
    "data.name": (str,),
    "data.dir": (str, type(None)),
    "data.train_split": (str,),
    "data.eval_split": (str,),
    "data.scale": (tuple, type(None)),  # (lowest, highest) ratio of random resizing
    "data.crop": (tuple, type(None)),  # (height, width), or the whole picture
    "data.flip": (bool,),
    "data.workers": (int,),  # processes that make batches; 0 makes them in threads
    "model.depth": (int,),
    "model.flavour": (str,),
    "model.context": (str,),
    "model.loops": (int,),
    "model.width": _NUMBER,
    "model.implementation": (str, type(None)),
    "model.remat": (bool,),
    "optimizer.learning_rate": _NUMBER,
    "optimizer.min_learning_rate": _NUMBER,
    "optimizer.momentum": _NUMBER,
    "optimizer.weight_decay": _NUMBER,
    "optimizer.power": _NUMBER,
    "loss.auxiliary_weight": _NUMBER,
    "loss.ohem": (bool,),
    "loss.ohem_threshold": _NUMBER,  # probability of the true class
    "loss.ohem_min_kept": (int,),  # pixels a picture
}
_CHOICES: dict[str, tuple] = {
    "dtype": ("float32", "bfloat16"),
    "data.name": DATASETS,
    "model.depth": tuple(BLOCKS),
    "model.flavour": tuple(FLAVOURS),
    "model.context": CONTEXTS,
    "model.implementation": (None, *IMPLEMENTATIONS),
}
_AT_LEAST = dict.fromkeys(
    ("steps", "batch_size", "log_every", "eval_batch_size", "checkpoint_every", "model.loops"), 1
)
_AT_LEAST |= dict.fromkeys(("seed", "eval_every", "data.workers", "loss.ohem_min_kept"), 0)
_ABOVE_0 = ("model.width", "optimizer.learning_rate")

# A run may go on with other values of these: they do not change what the weights mean.
_FREE = (
    "steps",
    "log_every",
    "eval_every",
    "eval_batch_size",
    "checkpoint_every",
    "data.dir",
    "data.workers",
    "model.implementation",
    "model.remat",
)


def flat(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """{"data.name": "streets", ...}: every leaf under its dotted key."""
    leaves = {}
    for key, value in config.items():
        if isinstance(value, ml_collections.ConfigDict):
            leaves |= {f"{key}.{inner}": leaf for inner, leaf in flat(value).items()}
        else:
            leaves[key] = value
    return leaves


def check(config: ml_collections.ConfigDict) -> None:
    """Raise UserError, naming the key, where the config cannot be run."""
    values = flat(config)
    for key in sorted(set(_KEYS) ^ set(values)):
        if key in _KEYS:
            raise UserError(f"the config has no key {key}; see configs/ for what a config holds")
        raise UserError(f"the config has a key {key} that means nothing; remove it")
    for key, value in values.items():
        if not isinstance(value, _KEYS[key]) or (isinstance(value, bool) and bool not in _KEYS[key]):
            wanted = " or ".join("None" if t is type(None) else t.__name__ for t in _KEYS[key])
            raise UserError(f"config.{key} must be {wanted}, not {value!r}")
        if key in _CHOICES and value not in _CHOICES[key]:
            choices = ", ".join(map(str, _CHOICES[key]))
            raise UserError(f"config.{key}={value!r} does not exist; choose one of {choices}")
        if key in _AT_LEAST and value < _AT_LEAST[key]:
            raise UserError(f"config.{key} must be at least {_AT_LEAST[key]}, not {value}")
        if key in _ABOVE_0 and value <= 0:
            raise UserError(f"config.{key} must be above 0, not {value}")
    scale, crop = values["data.scale"], values["data.crop"]
    if scale is not None and not (
        len(scale) == 2 and all(_is_number(v) for v in scale) and 0 < scale[0] <= scale[1]
    ):
        raise UserError(f"config.data.scale must be (lowest, highest) ratio above 0, not {scale!r}")
    if crop is not None and not (len(crop) == 2 and all(isinstance(v, int) and v >= 32 for v in crop)):
        raise UserError(f"config.data.crop must be (height, width), at least 32 pixels each, not {crop!r}")
    if scale is not None and crop is None:
        raise UserError(
            "config.data.scale makes pictures of many sizes: set config.data.crop to the size of a batch's"
        )


def check_device(config: ml_collections.ConfigDict) -> None:
    """Raise UserError where this device cannot run the config. Starts JAX: hosts must have joined."""
    name = config.model.implementation
    if name is not None and (reason := IMPLEMENTATIONS[name].unavailable()):
        raise UserError(
            f"config.model.implementation={name!r} {reason}; leave it None, which chooses what runs here"
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, _NUMBER) and not isinstance(value, bool)


def build_model(config: ml_collections.ConfigDict, num_classes: int) -> CCNet:
    """The network that the config describes."""
    model = config.model
    return CCNet(
        num_classes=num_classes,
        depth=model.depth,
        flavour=model.flavour,
        context=model.context,
        loops=model.loops,
        width=model.width,
        implementation=model.implementation,
        remat=model.remat,
        dtype=jnp.dtype(config.dtype),
    )


def save(config: ml_collections.ConfigDict, folder: pathlib.Path) -> None:
    """Write `config.json` into a run's folder."""
    temporary = folder / "config.json.tmp"
    temporary.write_text(json.dumps(config.to_dict(), indent=2) + "\n")
    temporary.replace(folder / "config.json")


def load(folder: pathlib.Path) -> ml_collections.ConfigDict:
    """The config of the run in `folder`. Raises UserError where there is none."""
    path = folder / "config.json"
    try:
        values = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(
            f"{folder} is not a run: it has no config.json; train first, or pass --workdir"
        ) from None
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}); restore it") from None
    data = values.get("data", {})
    data |= {key: tuple(value) for key, value in data.items() if isinstance(value, list)}
    return ml_collections.ConfigDict(values)


def let_op_choose_if_needed(config: ml_collections.ConfigDict) -> None:
    """Set `model.implementation` to None where this device cannot run what the run was trained with."""
    name = config.model.implementation
    if name is not None and (name not in IMPLEMENTATIONS or IMPLEMENTATIONS[name].unavailable()):
        print(f"model.implementation={name!r} cannot run here: the op chooses another")
        config.model.implementation = None


def check_same_run(config: ml_collections.ConfigDict, folder: pathlib.Path) -> None:
    """Raise UserError where the run in `folder` was started with another config, naming the keys."""
    here, there = flat(config), flat(load(folder))
    different = [key for key in _KEYS if key not in _FREE and here[key] != there.get(key)]
    if different:
        listed = ", ".join(f"{key}={there.get(key)!r}, not {here[key]!r}" for key in different)
        raise UserError(f"{folder} holds a run with {listed}; repeat its config, or choose another --workdir")
