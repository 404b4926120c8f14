"""The config and the classes of weights that come from PyTorch."""

import pathlib
import re
from collections.abc import Mapping

from ccnet_jax.common.errors import UserError
from ccnet_jax.common.labels import Classes, numbered_names, numbered_palette
from ccnet_jax.config import config as configuration
from ccnet_jax.config.config import Config
from ccnet_jax.config.recipes import RECIPES
from ccnet_jax.data.datasets import DATASETS
from ccnet_jax.models.config import build_network
from ccnet_jax.weights.checkpoint_meta import CheckpointMeta, data_set_of, known_names
from ccnet_jax.weights.detection import DetectedNetwork

UNKNOWN_DATA_SET = "unknown"  # the name of a data set that nothing tells


def config_from_weights(
    network: DetectedNetwork, num_classes: int, meta: CheckpointMeta, overrides: Mapping[str, str]
) -> Config:
    """The recipe of the weights' flavour, with the network and the data set that the checkpoint tells.

    Args:
      network: what was found in the weights.
      num_classes: of the network.
      meta: what the checkpoint says beside its weights.
      overrides: {dotted key: text} from the command line.

    Raises:
      UserError: an override is wrong.
    """
    config = RECIPES[network.flavour]()
    data_set = data_set_of(num_classes, meta.classes)
    if data_set is None:
        config.data.name = UNKNOWN_DATA_SET
        config.data.source = "tfds"  # the kind of source that takes any name and any classes
        config.data.classes = meta.classes or numbered_names(num_classes)
    else:
        config.data.name = data_set
    config.data.crop = (512, 512)
    config.data.workers = 4
    config.model.depth = network.depth
    config.model.width = network.width
    config.model.stem = network.stem
    config.model.align_corners = meta.align_corners
    if meta.loops is not None:
        config.model.loops = meta.loops
    return configuration.parse(config, overrides, made_elsewhere=True)


def check_config(
    config: Config, network: DetectedNetwork, num_classes: int, meta: CheckpointMeta, source: pathlib.Path
) -> None:
    """Raise UserError, naming the key, where a config does not describe the weights in `source`."""
    model = config.model
    aligned = build_network(model, num_classes).aligns_corners
    asked_and_found = {
        "backbone": (model.backbone, network.model.backbone),
        "flavour": (model.flavour, network.flavour),
        "depth": (model.depth, network.depth),
        "width": (model.width, network.width),
        "stem": (model.stem, network.stem),
        "context": (model.context, "rcca"),
        "loops": (model.loops, meta.loops or model.loops),
        "align_corners": (aligned, aligned if meta.align_corners is None else meta.align_corners),
    }
    for key, (asked, found) in asked_and_found.items():
        if asked != found:
            raise UserError(
                f"--config has model.{key}={asked}, the weights in {source} have {found}; choose another "
                f"variant, or set --config.model.{key}={found}"
            )
    data_set = _data_set_in(config)
    if meta.classes is not None and data_set and data_set_of(num_classes, meta.classes) != data_set:
        raise UserError(
            f"--config is for {data_set}, the classes in {source} are {', '.join(meta.classes[:3])}, ...; "
            "choose the config of their data set"
        )
    names = _config_classes(config, num_classes).names
    if len(names) != num_classes:
        raise UserError(
            f"--config is for {config.data.name} with {len(names)} classes, the weights in {source} have "
            f"{num_classes}; choose the config of their data set"
        )


def classes_from_weights(config: Config, num_classes: int, meta: CheckpointMeta) -> Classes:
    """The classes of the network, in its order.

    Of a data set that is known here they have the names and the numbers of that data set, by which its label
    files are found to fit; the checkpoint may spell them otherwise, or have them in another order. Of others
    names and colours are what the checkpoint says, else what the config says, else numbered ones.
    """
    known = _config_classes(config, num_classes)
    if _data_set_in(config) is None:
        return Classes(meta.classes or known.names, known.palette if meta.palette is None else meta.palette)
    names = known.names if meta.classes is None else known_names(meta.classes, known.names)
    if sorted(names) != sorted(known.names):  # some are no class of the data set: `eval` will say so
        return Classes(names, known.palette if meta.palette is None else meta.palette)
    classes = known.in_order(names)
    palette = classes.palette if meta.palette is None else meta.palette
    return Classes(names, palette, classes.label_ids)


def _config_classes(config: Config, num_classes: int) -> Classes:
    """The classes of the config's data set, else those that the config names, else numbered ones."""
    data_set = _data_set_in(config)
    known = None if data_set is None else DATASETS[data_set].classes
    if known is not None:
        return known
    names = config.data.classes or numbered_names(num_classes)
    return Classes(names, numbered_palette(len(names)))


def _data_set_in(config: Config) -> str | None:
    """The key of `DATASETS` that the config names, if that data set has classes of its own.

    TFDS's names may go on with /CONFIG and :VERSION.
    """
    name = re.split("[/:]", config.data.name)[0]
    return name if name in DATASETS and DATASETS[name].classes is not None else None
