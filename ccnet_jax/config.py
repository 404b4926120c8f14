"""The configuration of a run: what its keys may hold, how it is kept, the network it describes."""

import json
import pathlib
from typing import Any

import jax.numpy as jnp
import ml_collections
import numpy as np

from ccnet_jax.data.files import Source
from ccnet_jax.data.pipeline import DATASETS, SOURCES
from ccnet_jax.errors import UserError
from ccnet_jax.json_files import write_json
from ccnet_jax.models.ccnet import FLAVOURS, STEMS, CCNet
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
    "eval_window": (tuple, type(None)),  # (height, width) of sliding windows, or the whole picture
    "eval_stride": (tuple, type(None)),  # (down, across) from one window to the next
    "pretrained": (str, type(None)),  # path of backbone weights to start from
    "distributed": (bool,),  # several hosts: call jax.distributed.initialize()
    "data.name": (str,),
    "data.source": (str,),
    "data.dir": (str, type(None)),
    "data.features": (tuple, type(None)),  # (image, label) feature names of a TFDS data set
    "data.classes": (tuple, type(None)),  # class names of a TFDS data set that has none
    "data.train_split": (str,),
    "data.eval_split": (str,),
    "data.fit": (tuple, type(None)),  # (long, short) sides into which pictures are fitted, in testing too
    "data.scale": (tuple, type(None)),  # (lowest, highest) ratio of random resizing
    "data.short_sides": (tuple, type(None)),  # or the shorter side's lengths to draw from
    "data.crop": (tuple, type(None)),  # (height, width), or the whole picture
    "data.cat_max_ratio": _NUMBER,  # largest share of one class in a crop; 1 takes any crop
    "data.flip": (bool,),
    "data.distort": (bool,),  # photometric distortion
    "data.workers": (int,),  # processes that make batches; 0 makes them in threads
    "model.depth": (int,),
    "model.flavour": (str,),
    "model.context": (str,),
    "model.loops": (int,),
    "model.width": _NUMBER,
    "model.stem": (str,),
    "model.align_corners": (bool, type(None)),  # of the logits' upsampling; None is the flavour's
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
    "data.source": SOURCES,
    "model.depth": tuple(BLOCKS),
    "model.flavour": tuple(FLAVOURS),
    "model.stem": STEMS,
    "model.context": CONTEXTS,
    "model.implementation": (None, *IMPLEMENTATIONS),
}
_AT_LEAST = dict.fromkeys(
    ("steps", "batch_size", "log_every", "eval_batch_size", "checkpoint_every", "model.loops"), 1
)
_AT_LEAST |= dict.fromkeys(("seed", "eval_every", "data.workers", "loss.ohem_min_kept"), 0)
_ABOVE_0 = ("model.width", "optimizer.learning_rate", "data.cat_max_ratio")
_PAIRS = {  # keys that hold two sides in pixels, and the least each may be
    "data.fit": ("(long, short) side", 1),
    "data.crop": ("(height, width)", 32),
    "eval_window": ("(height, width)", 32),
    "eval_stride": ("(down, across)", 1),
}

# What runs of before these keys were trained with.
_DEFAULTS = {
    "eval_window": None,
    "eval_stride": None,
    "pretrained": None,
    "data.source": "folder",
    "data.features": None,
    "data.classes": None,
    "data.fit": None,
    "data.short_sides": None,
    "data.cat_max_ratio": 1.0,
    "data.distort": False,
    "model.stem": "deep",
    "model.align_corners": None,
}

# A run may go on with other values of these: they do not change what the weights mean.
_FREE = (
    "steps",
    "log_every",
    "eval_every",
    "eval_batch_size",
    "eval_window",
    "eval_stride",
    "checkpoint_every",
    "pretrained",
    "data.source",
    "data.dir",
    "data.features",
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
    for key, value in flat(config).items():
        if value == (None,):  # what the command line makes of --config.data.fit=None
            _set(config, key, None)
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
    for key, (meaning, least) in _PAIRS.items():
        pair = values[key]
        if pair is not None and not (len(pair) == 2 and all(_is_whole(v) and v >= least for v in pair)):
            raise UserError(f"config.{key} must be {meaning}, at least {least} pixels each, not {pair!r}")
    scale, sides = values["data.scale"], values["data.short_sides"]
    if scale is not None and not (
        len(scale) == 2 and all(_is_number(v) for v in scale) and 0 < scale[0] <= scale[1]
    ):
        raise UserError(f"config.data.scale must be (lowest, highest) ratio above 0, not {scale!r}")
    if sides is not None and not (sides and all(_is_whole(v) and v >= 1 for v in sides)):
        raise UserError(f"config.data.short_sides must be lengths in pixels, not {sides!r}")
    if (scale is not None or sides is not None) and values["data.crop"] is None:
        raise UserError(
            "config.data.scale and short_sides make pictures of many sizes: set config.data.crop to the "
            "size of a batch's"
        )
    if (values["eval_window"] is None) != (values["eval_stride"] is None):
        raise UserError("config.eval_window and config.eval_stride go together: set both or neither")
    window, stride = values["eval_window"], values["eval_stride"]
    if window is not None and (stride[0] > window[0] or stride[1] > window[1]):
        raise UserError(
            f"config.eval_stride={stride} leaves gaps between windows of {window}; make it at most the window"
        )
    check_data(values)


def check_data(values: dict[str, Any]) -> None:
    """Raise UserError where `data.name` and what belongs to it do not fit `data.source`."""
    if values["data.source"] == "folder":
        if values["data.name"] not in DATASETS:
            raise UserError(
                f"config.data.name={values['data.name']!r} does not exist; choose one of "
                f"{', '.join(DATASETS)}, or a TFDS data set with --config.data.source=tfds"
            )
        for key in ("data.features", "data.classes"):
            if values[key] is not None:
                raise UserError(f"config.{key} is for TFDS data sets: set --config.data.source=tfds too")
    features, classes = values["data.features"], values["data.classes"]
    if features is not None and not (len(features) == 2 and all(isinstance(v, str) for v in features)):
        raise UserError(f"config.data.features must be names (image, label), not {features!r}")
    if classes is not None and not (classes and all(isinstance(v, str) for v in classes)):
        raise UserError(f"config.data.classes must be class names, not {classes!r}")


def check_device(config: ml_collections.ConfigDict) -> None:
    """Raise UserError where this device cannot run the config. Starts JAX: hosts must have joined."""
    name = config.model.implementation
    if name is not None and (reason := IMPLEMENTATIONS[name].unavailable()):
        raise UserError(
            f"config.model.implementation={name!r} {reason}; leave it None, which chooses what runs here"
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, _NUMBER) and not isinstance(value, bool)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


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
        stem=model.stem,
        align_corners=model.align_corners,
        implementation=model.implementation,
        remat=model.remat,
        dtype=jnp.dtype(config.dtype),
    )


def save(config: ml_collections.ConfigDict, folder: pathlib.Path) -> None:
    """Write `config.json` into a run's folder."""
    write_json(folder / "config.json", config.to_dict())


def save_classes(source: Source, folder: pathlib.Path) -> None:
    """Write `classes.json`, names and colours, into a run's folder: to predict one needs no data set."""
    values = {"classes": list(source.classes), "palette": source.palette.tolist()}
    write_json(folder / "classes.json", values)


def load_classes(
    folder: pathlib.Path, config: ml_collections.ConfigDict
) -> tuple[tuple[str, ...], np.ndarray]:
    """Class names and palette [classes, 3] of a run; of one from before `classes.json`, those of its data.

    Raises UserError where neither tells.
    """
    path = folder / "classes.json"
    try:
        values = json.loads(path.read_text())
        return tuple(values["classes"]), np.array(values["palette"], np.uint8)
    except FileNotFoundError:
        if config.data.name not in DATASETS:
            raise UserError(
                f"{folder} has no classes.json and {config.data.name} names no classes; restore that file"
            ) from None
        return DATASETS[config.data.name].CLASSES, DATASETS[config.data.name].PALETTE
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({error}); restore it") from None


def load(folder: pathlib.Path) -> ml_collections.ConfigDict:
    """The config of the run in `folder`. Raises UserError where there is none."""
    path = folder / "config.json"
    try:
        values = json.loads(path.read_text(), object_hook=_with_tuples)
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{folder} is not a run: it has no config.json; train first, or pass --workdir"
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error}); restore it") from None
    config = ml_collections.ConfigDict(values)
    for key in _DEFAULTS.keys() - flat(config).keys():
        _set(config, key, _DEFAULTS[key])
    return config


def _with_tuples(values: dict[str, Any]) -> dict[str, Any]:
    """Lists, JSON's word for tuples, as tuples; in a ConfigDict a list would stay one."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}


def _set(config: ml_collections.ConfigDict, key: str, value: Any) -> None:
    *groups, leaf = key.split(".")
    for group in groups:
        config = config[group]
    with config.unlocked(), config.ignore_type():
        config[leaf] = value


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
