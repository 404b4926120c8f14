"""What mmsegmentation keeps in the "meta" of its checkpoints: class names, colours, settings of the head."""

import dataclasses
import re
from collections.abc import Iterable

import numpy as np

from ccnet_jax.common.labels import Classes
from ccnet_jax.data.datasets import DATASETS
from ccnet_jax.models.ccnet import CCNet
from ccnet_jax.weights.tensor_files import Meta

# The published checkpoints, of which the authors' name no classes.
_DATASET_BY_CLASS_COUNT = {19: "cityscapes", 21: "voc2012", 150: "ade20k"}
_LOOPS = re.compile(r"\brecurrence\s*=\s*([1-9]\d?)\b")
_ALIGN_CORNERS = re.compile(r"\balign_corners\s*=\s*(True|False)\b")


@dataclasses.dataclass(frozen=True)
class CheckpointMeta:
    """What a checkpoint says beside its weights; None where it does not say it.

    Attributes:
      classes: names of the classes.
      palette: uint8 [classes, 3] RGB.
      loops: of RCCA.
      align_corners: how logits are upsampled.
    """

    classes: tuple[str, ...] | None = None
    palette: np.ndarray | None = None
    loops: int | None = None
    align_corners: bool | None = None


def read_meta(meta: Meta, num_classes: int) -> CheckpointMeta:
    """What the "meta" says; names and colours count only where there is one for each class."""
    described = meta.get("dataset_meta")
    described = described if isinstance(described, dict) else {}
    config = next((text for key in ("config", "cfg") if isinstance(text := meta.get(key), str)), "")
    loops, align_corners = _LOOPS.search(config), _ALIGN_CORNERS.search(config)
    return CheckpointMeta(
        classes=_names_in(meta.get("CLASSES") or described.get("classes"), num_classes),
        palette=_palette_in(meta.get("PALETTE") or described.get("palette"), num_classes),
        loops=None if loops is None else int(loops[1]),
        align_corners=None if align_corners is None else align_corners[1] == "True",
    )


def written_meta(network: CCNet, classes: Classes | None) -> Meta:
    """The "meta" of a network's weights as mmsegmentation writes it; `read_meta` reads it again."""
    head = f"type='CCHead', recurrence={network.loops}, align_corners={network.aligns_corners}"
    meta: Meta = {"config": f"model = dict(decode_head=dict({head}))\n"}
    if classes is not None:
        names, palette = list(classes.names), classes.palette.tolist()
        meta |= {"CLASSES": names, "PALETTE": palette}
        meta["dataset_meta"] = {"classes": names, "palette": palette}
    return meta


def data_set_of(num_classes: int, classes: tuple[str, ...] | None) -> str | None:
    """The key of `DATASETS` that the weights were trained on, None where none fits.

    It has as many classes, and more than half of the names are the same in the same place, whatever their
    case, spaces and punctuation. Without names the number of classes decides among the published data sets.
    """
    if classes is None:
        return _DATASET_BY_CLASS_COUNT.get(num_classes)
    for name, data_set in DATASETS.items():
        known = data_set.classes
        if known is None or len(known.names) != num_classes:
            continue
        pairs = zip(_letters(known.names), _letters(classes), strict=False)
        if sum(ours == theirs for ours, theirs in pairs) > num_classes / 2:
            return name
    return None


def known_names(classes: tuple[str, ...], known: tuple[str, ...]) -> tuple[str, ...]:
    """The names of a checkpoint as the data set spells them, whatever their case, spaces and punctuation.

    A name that is no class of the data set is taken for the class in its place, where no other name is that
    class.
    """
    spelled = dict(zip(_letters(known), known, strict=True))
    found = [spelled.get(letters) for letters in _letters(classes)]
    return tuple(
        name or (known[i] if i < len(known) and known[i] not in found else classes[i])
        for i, name in enumerate(found)
    )


def _letters(names: Iterable[str]) -> list[str]:
    """The names in lower case, their letters alone."""
    return [re.sub("[^a-z]", "", name.lower()) for name in names]


def _names_in(value: object, count: int) -> tuple[str, ...] | None:
    """The value as `count` class names, None where it is something else."""
    if not isinstance(value, list | tuple) or len(value) != count:
        return None
    return tuple(value) if all(isinstance(name, str) for name in value) else None


def _palette_in(value: object, count: int) -> np.ndarray | None:
    """The value as uint8 [count, 3], None where it is something else."""
    try:
        colours = np.array(value, np.uint8)
    except (TypeError, ValueError, OverflowError):
        return None
    return colours if colours.shape == (count, 3) else None
