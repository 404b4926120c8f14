"""Mask R-CNN's weights from torchvision or mmdetection into the folder of a run."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from ccnet_jax.common.errors import UserError
from ccnet_jax.common.labels import Classes, numbered_names, numbered_palette
from ccnet_jax.config import config_files, records
from ccnet_jax.config.config import Config, parse
from ccnet_jax.config.config_files import ConfigName
from ccnet_jax.data.datasets.coco import COCO_CLASSES
from ccnet_jax.engine.checkpoints import Checkpoints
from ccnet_jax.engine.folder import RunFolder
from ccnet_jax.models.detection.config import build_mask_rcnn
from ccnet_jax.tasks import TASKS
from ccnet_jax.training.optimizers import build_optimizer
from ccnet_jax.weights.naming import Key, Naming, StateDict, is_counter
from ccnet_jax.weights.new_folder import new_folder
from ccnet_jax.weights.resnet_depth import depth_of
from ccnet_jax.weights.values import check_value

COCO_LABELS = 91  # of torchvision: COCO's ids 0 to 90, of which 80 are classes
UNUSED_IDS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)  # numbers from 1 to 90 that COCO gave to no class


def _both(name: str) -> tuple[str, str]:
    """The names of a convolution in torchvision's newer and older files."""
    return f"{name}.0", name


@dataclasses.dataclass(frozen=True)
class InstanceNames:
    """What one code base calls the parts of Mask R-CNN.

    Attributes:
      backbone: what stands before the names of the ResNet.
      modules: {our module: its name, or names in files of several versions}.
      background_first: background is the first logit, and has deltas and a mask, which mean nothing;
        otherwise it is the last logit.
    """

    backbone: str
    modules: Mapping[str, tuple[str, ...]]
    background_first: bool


_LEVELS, _CONVS = range(2, 6), range(1, 5)  # of the pyramid, and of the mask head
INSTANCE_NAMES = {
    "torchvision": InstanceNames(
        "backbone.body.",
        {f"fpn/lateral{i}": _both(f"backbone.fpn.inner_blocks.{i - 2}") for i in _LEVELS}
        | {f"fpn/smooth{i}": _both(f"backbone.fpn.layer_blocks.{i - 2}") for i in _LEVELS}
        | {
            f"mask_head/conv{i}": (f"roi_heads.mask_head.{i - 1}.0", f"roi_heads.mask_head.mask_fcn{i}")
            for i in _CONVS
        }
        | {
            "rpn_head/conv": ("rpn.head.conv.0.0", "rpn.head.conv"),
            "rpn_head/objectness": ("rpn.head.cls_logits",),
            "rpn_head/deltas": ("rpn.head.bbox_pred",),
            "box_head/fc1": ("roi_heads.box_head.fc6",),
            "box_head/fc2": ("roi_heads.box_head.fc7",),
            "box_head/classes": ("roi_heads.box_predictor.cls_score",),
            "box_head/deltas": ("roi_heads.box_predictor.bbox_pred",),
            "mask_head/upsample": ("roi_heads.mask_predictor.conv5_mask",),
            "mask_head/masks": ("roi_heads.mask_predictor.mask_fcn_logits",),
        },
        background_first=True,
    ),
    "mmdetection": InstanceNames(
        "backbone.",
        {f"fpn/lateral{i}": (f"neck.lateral_convs.{i - 2}.conv",) for i in _LEVELS}
        | {f"fpn/smooth{i}": (f"neck.fpn_convs.{i - 2}.conv",) for i in _LEVELS}
        | {f"mask_head/conv{i}": (f"roi_head.mask_head.convs.{i - 1}.conv",) for i in _CONVS}
        | {
            "rpn_head/conv": ("rpn_head.rpn_conv",),
            "rpn_head/objectness": ("rpn_head.rpn_cls",),
            "rpn_head/deltas": ("rpn_head.rpn_reg",),
            "box_head/fc1": ("roi_head.bbox_head.shared_fcs.0",),
            "box_head/fc2": ("roi_head.bbox_head.shared_fcs.1",),
            "box_head/classes": ("roi_head.bbox_head.fc_cls",),
            "box_head/deltas": ("roi_head.bbox_head.fc_reg",),
            "mask_head/upsample": ("roi_head.mask_head.upsample",),
            "mask_head/masks": ("roi_head.mask_head.conv_logits",),
        },
        background_first=False,
    ),
}


def instance_source(tensors: StateDict) -> str | None:
    """The key of `INSTANCE_NAMES` whose Mask R-CNN a state dict holds, None where it holds none."""
    for source, names in INSTANCE_NAMES.items():
        if any(f"{name}.weight" in tensors for name in names.modules["mask_head/masks"]):
            return source
    return None


def instance_variables(
    tensors: StateDict, names: InstanceNames, network: Any, source: pathlib.Path
) -> tuple[Any, set[str]]:
    """{"params", "batch_stats"} of a `MaskRCNN` without a context module, and the tensors that were used.

    Args:
      tensors: the state dict.
      names: what it calls the parts.
      network: of as many classes as the state dict.
      source: the file, for error messages.

    Raises:
      UserError: a tensor is missing, has another shape or is not finite.
    """
    naming = Naming("", names.backbone, "torchvision", None)
    images = jax.ShapeDtypeStruct((1, 64, 64, 3), np.uint8)
    shapes = traverse_util.flatten_dict(jax.eval_shape(network.init, jax.random.key(0), images))
    used: set[str] = set()

    def tensor(key: Key, needed: tuple[int, ...]) -> np.ndarray:
        if key[1] == "backbone":
            candidates = [naming.name(key)]
        else:
            leaf = {"kernel": "weight", "bias": "bias"}[key[-1]]
            candidates = [f"{name}.{leaf}" for name in names.modules["/".join(key[1:-1])]]
        name = next((x for x in candidates if x in tensors), None)
        if name is None:
            raise UserError(f"{source} holds a Mask R-CNN, but lacks {candidates[0]}; take a complete file")
        used.add(name)
        return check_value(tensors[name], name, needed, source, "take another copy")

    converted = {key: converted_variable(key, x.shape, names, tensor) for key, x in shapes.items()}
    return jax.tree.map(jnp.asarray, traverse_util.unflatten_dict(converted)), used


def converted_variable(key: Key, shape: tuple[int, ...], names: InstanceNames, tensor: Any) -> np.ndarray:
    """Our variable from the state dict's tensor."""
    module = "/".join(key[1:-1])
    extra = int(names.background_first)
    match module, shape:
        case "box_head/deltas", (*inside, outside):
            value = tensor(key, (outside + 4 * extra, *inside))[4 * extra :]
            return _in_order(value.T)
        case "box_head/classes", (*inside, outside):
            value = tensor(key, (outside, *inside))
            return _in_order((value if extra else np.roll(value, 1, 0)).T)
        case "box_head/fc1", (inside, outside):
            cells = 49  # 7x7, which PyTorch has after the channels
            value = tensor(key, (outside, inside)).reshape(outside, inside // cells, 7, 7)
            return _in_order(value.transpose(2, 3, 1, 0).reshape(inside, outside))
        case "mask_head/masks", (*inside, outside):
            value = tensor(key, (outside + extra, *inside, *(1, 1)[: 2 * len(inside)]))[extra:]
            return _in_order(value.reshape(outside, *inside).T)
        case "mask_head/upsample", (height, width, inside, outside):
            value = tensor(key, (inside, outside, height, width))
            return _in_order(value.transpose(2, 3, 0, 1)[::-1, ::-1])
        case "box_head/fc2", (inside, outside):
            return _in_order(tensor(key, (outside, inside)).T)
        case _, (height, width, inside, outside):
            return _in_order(tensor(key, (outside, inside, height, width)).transpose(2, 3, 1, 0))
        case _, (inside, outside):
            return _in_order(tensor(key, (outside, inside, 1, 1))[:, :, 0, 0].T)
    return tensor(key, shape)


def _in_order(value: np.ndarray) -> np.ndarray:
    return np.array(value, order="C")


def without_unused_labels(
    tensors: StateDict, names: InstanceNames, source: pathlib.Path
) -> dict[str, np.ndarray]:
    """torchvision's state dict of 91 labels without those that COCO gave to no class: 81 are left.

    Raises UserError, which names the file `source`, where a tensor is missing or has not so many labels.
    """
    kept = np.setdiff1d(np.arange(COCO_LABELS), UNUSED_IDS)
    changed = dict(tensors)
    for module, rows in (("box_head/classes", 1), ("box_head/deltas", 4), ("mask_head/masks", 1)):
        for leaf in ("weight", "bias"):
            name = f"{names.modules[module][0]}.{leaf}"
            if name not in tensors:
                raise UserError(f"{source} holds a Mask R-CNN, but lacks {name}; take a complete file")
            value = np.asarray(tensors[name])
            if value.shape[:1] != (COCO_LABELS * rows,):
                raise UserError(
                    f"{name} in {source} is of the shape {list(value.shape)}, and must have "
                    f"{COCO_LABELS * rows} rows for {COCO_LABELS} labels; take another copy"
                )
            changed[name] = value.reshape(COCO_LABELS, rows, *value.shape[1:])[kept].reshape(
                -1, *value.shape[1:]
            )
    return changed


def import_instances(
    tensors: StateDict,
    source: pathlib.Path,
    out: pathlib.Path,
    given: Config | None = None,
    overrides: Mapping[str, str] | None = None,
) -> None:
    """Make a run's folder, at step 0, of Mask R-CNN's weights, and print what was found.

    Args:
      tensors: the state dict; `instance_source` finds it.
      source: the file, for messages.
      out: the folder to make.
      given: the run's config; None takes COCO's.
      overrides: {dotted key: text} that change COCO's.

    Raises:
      UserError: a tensor is missing or wrong, the config is of another network, or `out` cannot be made.
    """
    whose = instance_source(tensors)
    if whose is None:
        raise UserError(f"{source} holds no Mask R-CNN")
    names, all_names = INSTANCE_NAMES[whose], set(tensors)
    depth = depth_of(name.removeprefix(names.backbone) for name in tensors if name.startswith(names.backbone))
    logits = f"{names.modules['box_head/classes'][0]}.bias"
    if depth is None or logits not in tensors:
        raise UserError(
            f"{source} holds a Mask R-CNN on another backbone than a ResNet; take one on a ResNet"
        )
    labels = len(tensors[logits])
    note = ""
    if labels == COCO_LABELS and whose == "torchvision":
        tensors = without_unused_labels(tensors, names, source)
        note = f"; left out: the rows of {len(UNUSED_IDS)} of its {COCO_LABELS} labels, which are no class"
        labels -= len(UNUSED_IDS)
    classes = labels - 1
    config = given
    if config is None:
        recipe = config_files.load(ConfigName.of(f"coco:r{depth if depth in (50, 101) else 50}-none"))
        recipe.model.depth = depth
        config = parse(recipe, overrides or {})
    _check(config, depth, source)
    named = config.data.classes or (COCO_CLASSES if classes == len(COCO_CLASSES) else numbered_names(classes))
    if classes == len(COCO_CLASSES):  # to find them by their names in a file of annotations
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, classes=tuple(named)))
    if len(named) != classes:
        raise UserError(
            f"{source} has {classes} classes and config.data.classes {len(named)}; make them agree"
        )

    network = build_mask_rcnn(config.model, config.detection, classes)
    variables, used = instance_variables(tensors, names, network, source)
    with new_folder(out) as folder:
        run = RunFolder(folder)
        records.save_config(run, config)
        records.save_classes(run, Classes(tuple(named), numbered_palette(classes + 1)[1:]))
        run.add_versions()
        trained = TASKS[config.task].is_trained(config)
        optimizer = build_optimizer(config.optimizer, config.steps, trained)
        with Checkpoints(run) as saved:
            saved.save_last(0, variables, optimizer.init(variables["params"]))
    counters = set(filter(is_counter, all_names))
    others = ", ".join(sorted(all_names - used - counters))
    print(f"{source} holds {whose}'s Mask R-CNN, ResNet-{depth}, {classes} classes")
    print(
        f"{len(used)} of its {len(all_names)} tensors used{note}; not needed: {len(counters)} counters of "
        f"batches" + (f"; not used: {others}" if others else "")
    )
    print(f"run in {out}: python -m ccnet_jax.eval --workdir {out} --data-dir FOLDER")


def _check(config: Config, depth: int, source: pathlib.Path) -> None:
    """Raise UserError where the config is of another network than the weights."""
    wanted: dict[str, tuple[Any, Any]] = {
        "task": (config.task, "instance"),
        "model.depth": (config.model.depth, depth),
        "model.stem": (config.model.stem, "7x7"),
        "model.width": (config.model.width, 1.0),
        "model.context": (config.model.context, "none"),
    }
    for key, (value, needed) in wanted.items():
        if value != needed:
            raise UserError(f"{source} needs config.{key}={needed!r}, not {value!r}")
