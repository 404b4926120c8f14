"""PyTorch's weights into a run's folder, or of a ResNet alone into the folder of a backbone."""

import pathlib
from collections.abc import Collection, Mapping

from flax import traverse_util

from ccnet_jax.common.errors import UserError
from ccnet_jax.config import records
from ccnet_jax.config.config import Config
from ccnet_jax.engine import checkpoints
from ccnet_jax.engine.checkpoints import Checkpoints
from ccnet_jax.engine.folder import RunFolder
from ccnet_jax.models.config import build_network
from ccnet_jax.models.flavours import FLAVOURS
from ccnet_jax.models.variables import Variables
from ccnet_jax.tasks import TASKS
from ccnet_jax.training.optimizers import build_optimizer
from ccnet_jax.weights import tensor_files, values
from ccnet_jax.weights.checkpoint_meta import CheckpointMeta, read_meta
from ccnet_jax.weights.conversion import convert_tensors
from ccnet_jax.weights.detection import DetectedNetwork, detect_network
from ccnet_jax.weights.import_config import (
    UNKNOWN_DATA_SET,
    check_config,
    classes_from_weights,
    config_from_weights,
)
from ccnet_jax.weights.instance_import import import_instances, instance_source
from ccnet_jax.weights.naming import StateDict, is_counter, without_wrappers
from ccnet_jax.weights.new_folder import new_folder


def import_weights(
    source: pathlib.Path,
    out: pathlib.Path,
    expected_source: str | None = None,
    in_place: bool | None = None,
    config: Config | None = None,
    overrides: Mapping[str, str] | None = None,
) -> None:
    """Make a run's folder of a CCNet's or a Mask R-CNN's weights, or a backbone's of a ResNet's.

    Prints what was found.

    Args:
      source: a .safetensors, .pth or .pt file.
      out: the folder to make.
      expected_source: whose names the weights must have, a key of `STEM_NAMES`; None takes any.
      in_place: whether the norms are in-place ABN; None decides by the weights.
      config: of the run; None takes the recipe of the weights' flavour.
      overrides: {dotted key: text} that change that recipe; `config` has its changes already.

    Raises:
      UserError: the file cannot be read, is of another network, or does not agree with the config; or `out`
        cannot be made.
    """
    if source.is_dir():
        raise UserError(f"{source} is a folder; to write the weights of a run for PyTorch pass --to torch")
    tensor_files.check_readable(source, str(source))
    tensors, raw_meta = tensor_files.read(source)
    plain = without_wrappers(tensors)
    if (whose := instance_source(plain)) is not None:
        _check_flags_of_instances(whose, expected_source, in_place, source)
        import_instances(plain, source, out, config, overrides)
        return
    if config is not None and not TASKS[config.task].labels_pixels:
        raise UserError(f"{source} is no Mask R-CNN, and the config has task={config.task!r}; choose another")
    network = detect_network(tensors, expected_source, source)
    if in_place is None:
        in_place = values.has_in_place_norms(tensors, network.naming)
    elif in_place and not FLAVOURS[network.flavour].in_place_norms:
        raise UserError(
            f"{source} is of the {network.flavour} flavour, whose norms are never in-place ABN; omit "
            "--inplace-abn"
        )
    if network.num_classes is None:
        _import_backbone(tensors, network, in_place, source, out)
        return

    meta = read_meta(raw_meta, network.num_classes)
    chosen_by_user = config is not None or not {"model.loops", "model.align_corners"}.isdisjoint(
        overrides or ()
    )
    if config is None:
        config = config_from_weights(network, network.num_classes, meta, overrides or {})
    check_config(config, network, network.num_classes, meta, source)
    variables = convert_tensors(tensors, network, config.model, in_place, source)
    classes = classes_from_weights(config, network.num_classes, meta)
    with new_folder(out) as folder:
        run = RunFolder(folder)
        records.save_config(run, config)
        records.save_classes(run, classes)
        run.add_versions()
        optimizer = build_optimizer(config.optimizer, config.steps).init(variables["params"])
        with Checkpoints(run) as saved:
            saved.save_last(0, variables, optimizer)

    _print_tensors(tensors, variables, network, in_place, source)
    ccnet = build_network(config.model, network.num_classes)
    print(
        f"taken from {_origin(meta, chosen_by_user)}: loops={ccnet.loops}, "
        f"align_corners={ccnet.aligns_corners}"
    )
    evaluate = f"python -m ccnet_jax.eval --workdir {out} --data-dir FOLDER"
    print(f"run in {out}, data set {config.data.name}: {evaluate}")
    if config.data.name == UNKNOWN_DATA_SET:
        print("to evaluate or train, convert with the --config of its data set")


def _check_flags_of_instances(
    whose: str, expected_source: str | None, in_place: bool | None, source: pathlib.Path
) -> None:
    """Raise UserError where flags ask of a Mask R-CNN, a key of `INSTANCE_NAMES`, what it is not."""
    if expected_source not in (None, whose):
        raise UserError(
            f"the names in {source} are those of {whose}'s Mask R-CNN; omit --source {expected_source}"
        )
    if in_place:
        raise UserError(
            f"{source} holds a Mask R-CNN, whose norms are never in-place ABN; omit --inplace-abn"
        )


def _import_backbone(
    tensors: StateDict, network: DetectedNetwork, in_place: bool, source: pathlib.Path, out: pathlib.Path
) -> None:
    """Make the folder of a ResNet alone, and print what was found."""
    variables = convert_tensors(tensors, network, network.model, in_place, source)
    with new_folder(out) as folder:
        checkpoints.save_variables(folder, variables)
    _print_tensors(tensors, variables, network, in_place, source)
    print(f"a ResNet alone: --config.pretrained={out}")


def _print_tensors(
    tensors: StateDict,
    variables: Variables,
    network: DetectedNetwork,
    in_place: bool,
    source: pathlib.Path,
) -> None:
    """Say what the file holds, and account for each of its tensors."""
    used = set(map(network.naming.name, traverse_util.flatten_dict(variables)))
    print(f"{source} holds a {network}")
    print(f"{len(used)} of its {len(tensors)} tensors used; {_unused_text(set(tensors) - used)}")
    if in_place:
        print(
            "its norms are taken for in-place ABN: their scales are |weight| + 1e-5 (else --no-inplace-abn)"
        )


def _unused_text(names: Collection[str]) -> str:
    """What was not needed of the state dict, and what was not used."""
    counters = set(filter(is_counter, names))
    others = ", ".join(sorted(set(names) - counters))
    return f"not needed: {len(counters)} counters of batches" + (f"; not used: {others}" if others else "")


def _origin(meta: CheckpointMeta, chosen_by_user: bool) -> str:
    """Where `loops` and `align_corners` come from."""
    if chosen_by_user:
        return "--config"
    if meta.loops is not None and meta.align_corners is not None:
        return "the checkpoint's config"
    return "the published networks, since the weights do not tell (--config does)"
