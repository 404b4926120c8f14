"""PyTorch's weights into a run folder, and back.

    python -m ccnet_jax.convert CHECKPOINT --out DIR [--source NAME] [--config configs/NAME.py[:VARIANT]]
    python -m ccnet_jax.convert RUN --to torch --out FILE.{safetensors,pth} [--checkpoint last|best|DIR]

The first makes of a CCNet, the authors' (official) or mmsegmentation's (mmseg), a run at step 0, which `eval`
takes as any other and `train --workdir DIR` trains on; of a ResNet alone (timm's and torchvision's too) a
folder for --config.pretrained=DIR. A .safetensors needs no PyTorch; of a .pth only tensors are read and no
code is run. Depth, width, flavour, stem and the number of classes are found in the weights; the data set by
that number, or by the class names that mmsegmentation keeps; loops and align_corners in the config that it
keeps, if it does. A recipe given with --config says the rest, and must agree with the weights.

The second writes a run's weights under the names of its flavour's PyTorch network. Both change no bit of them
(running variances too, though PyTorch will update them with n / (n - 1) times the variance that we keep), but
for one thing: norms of the authors' network are in-place ABN, whose scale is |weight| + 1e-5. Weights of the
official flavour without num_batches_tracked, which only PyTorch's own batch norm has, are taken for such and
become |weight| + 1e-5; `--to torch --inplace-abn` writes such, without it the scales are the weights.
"""

import collections
import contextlib
import dataclasses
import importlib.util
import pathlib
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import orbax.checkpoint as ocp
from absl import flags, logging
from flax import traverse_util
from ml_collections import config_dict, config_flags

from ccnet_jax import config as configuration
from ccnet_jax import errors
from ccnet_jax.data.datasets import DATASETS
from ccnet_jax.errors import UserError
from ccnet_jax.labels import numbered_palette
from ccnet_jax.models.backbones.resnet import ResNet
from ccnet_jax.models.flavours import FLAVOURS
from ccnet_jax.run import checkpoints
from ccnet_jax.training.optimizers import sgd
from ccnet_jax.weights import torch_weights
from ccnet_jax.weights.torch_weights import Key, Naming

SOURCES = ("official", "mmseg", "torchvision", "timm")


# ----------------------------------------------------------------------------------------- what there is
@dataclasses.dataclass(frozen=True)
class Found:
    """What the weights tell of their network; `num_classes` is None of a ResNet alone."""

    naming: Naming
    flavour: str
    depth: int
    width: float
    stem: str
    num_classes: int | None

    def __str__(self) -> str:
        width = "" if self.width == 1 else f" of {self.width:g} times the width"
        title = f"ResNet-{self.depth}{width} with {'a 7x7' if self.stem == '7x7' else 'the deep'} stem"
        if self.num_classes is None:
            return title
        return f"CCNet of the {self.flavour} flavour, {title}, {self.num_classes} classes"


def found_network(tensors: dict[str, np.ndarray], asked: str | None, source: pathlib.Path) -> Found:
    """What network the state dict read from `source` is of.

    Raises UserError where it is none of ours, or its names are not those of the source asked for.
    """
    naming = torch_weights.naming_of(tensors, source)
    names = {name for name in tensors if name.startswith(f"{naming.prefix}{naming.backbone}layer")}
    if naming.heads is None:
        strange = [name for name in sorted(set(tensors) - names) if not _is_of_backbone(name, naming)]
        if strange:
            raise UserError(
                f"{source} is of another network than CCNet: it has {strange[0]}, but no "
                "head.cca.query_conv.weight (official) or decode_head.cca.query_conv.weight (mmseg)"
            )
    kind = naming.heads or naming.stem
    if asked is not None and asked != kind:
        raise UserError(f"the names in {source}, as {min(names)}, are {kind}'s; pass --source {kind}")
    depth = torch_weights.depth_of(names)
    if depth is None:
        raise UserError(
            f"{source} holds a {torch_weights.resnet_title(names)}, which is none that is known; take a "
            "complete file"
        )
    backbone = naming.prefix + naming.backbone
    channels = [_first_side(tensors, f"{backbone}layer4.{i}.conv1.weight") for i in (0, 1, 2)]
    num_classes = None
    if naming.heads:
        modules = torch_weights.HEADS[naming.heads]

        def side(ours: str, leaf: str = "weight") -> int | None:
            return _first_side(tensors, f"{naming.prefix}{modules[ours]}.{leaf}")

        channels += [side("head/before/conv"), side("head/after/conv"), side("head/fuse/conv")]
        classifiers = ("head/classifier", "auxiliary_head/classifier")
        num_classes = _most(side(of, leaf) for of in classifiers for leaf in ("weight", "bias"))
    stem = "7x7" if naming.stem == "torchvision" else "deep"
    flavour = naming.heads or _flavour_of_stem(tensors, naming)
    return Found(naming, flavour, depth, _most(channels) / 512, stem, num_classes)


def _is_of_backbone(name: str, naming: Naming) -> bool:
    """Whether a ResNet for classification has it too, beside its stages."""
    convs, norms = torch_weights.STEMS[naming.stem]
    stem = tuple(f"{naming.prefix}{naming.backbone}{part}." for part in (*convs, *norms, "fc"))
    return name.startswith(stem) or torch_weights.is_counter(name)


def _first_side(tensors: dict[str, np.ndarray], name: str) -> int | None:
    return tensors[name].shape[0] if name in tensors and tensors[name].ndim else None


def _most(numbers: Iterable[int | None]) -> int:
    """What most of them say: one weight that is wrong must not be what the others are measured by."""
    count = collections.Counter(number for number in numbers if number)
    return count.most_common(1)[0][0] if count else 1


def _flavour_of_stem(tensors: dict[str, np.ndarray], naming: Naming) -> str:
    """Of a ResNet alone: whose stem is as wide."""
    if naming.stem == "torchvision":
        return "mmseg"  # the pictures' colours are mmseg's too
    last = _first_side(
        tensors, naming.prefix + naming.backbone + torch_weights.STEMS[naming.stem][0][2] + ".weight"
    )
    return "official" if last == FLAVOURS["official"].stem_channels[2] else "mmseg"


# ------------------------------------------------------------------------------------------- its config
@dataclasses.dataclass(frozen=True)
class Told:
    """What mmsegmentation notes beside the weights, each None where it does not."""

    classes: tuple[str, ...] | None = None
    palette: np.ndarray | None = None  # uint8 [classes, 3] RGB
    loops: int | None = None
    align_corners: bool | None = None


def told_by(meta: dict[str, Any], num_classes: int) -> Told:
    """What the "meta" of a checkpoint says; names and colours only if they are as many as the classes."""
    described = meta.get("dataset_meta")
    described = described if isinstance(described, dict) else {}
    names = meta.get("CLASSES") or described.get("classes")
    colours = meta.get("PALETTE") or described.get("palette")
    text = next((meta[key] for key in ("config", "cfg") if isinstance(meta.get(key), str)), "")
    loops = re.search(r"\brecurrence\s*=\s*([1-9]\d?)\b", text)
    aligned = re.search(r"\balign_corners\s*=\s*(True|False)\b", text)
    return Told(
        _names(names, num_classes),
        _palette(colours, num_classes),
        loops and int(loops[1]),
        aligned and aligned[1] == "True",
    )


def _names(told: Any, count: int) -> tuple[str, ...] | None:
    fits = isinstance(told, list | tuple) and len(told) == count and all(isinstance(n, str) for n in told)
    return tuple(told) if fits else None


def _palette(told: Any, count: int) -> np.ndarray | None:
    try:
        colours = np.array(told, np.uint8)
    except (TypeError, ValueError, OverflowError):
        return None
    return colours if colours.shape == (count, 3) else None


def data_set_of(num_classes: int, classes: tuple[str, ...] | None) -> str | None:
    """The data set with these class names, spelled about so; without names the published ones by number."""

    def letters(names: Iterable[str]) -> list[str]:
        return [re.sub("[^a-z]", "", name.lower()) for name in names]

    if classes is None:
        return {19: "cityscapes", 150: "ade20k", 21: "voc2012"}.get(num_classes)
    for name, data_set in DATASETS.items():
        pairs = zip(letters(data_set.CLASSES), letters(classes), strict=False)
        if len(data_set.CLASSES) == num_classes and sum(a == b for a, b in pairs) > num_classes / 2:
            return name
    return None


def plain_config(found: Found, told: Told) -> ml_collections.ConfigDict:
    """A config for weights without a recipe: tested on whole pictures, trained on crops of 512x512."""
    data_set = data_set_of(found.num_classes, told.classes)
    none = config_dict.placeholder
    return ml_collections.ConfigDict(
        {
            "steps": 40_000,
            "batch_size": 8,
            "seed": 0,
            "dtype": "float32",
            "log_every": 20,
            "eval_every": 5000,
            "eval_batch_size": 1,
            "eval_window": none(tuple),
            "eval_stride": none(tuple),
            "checkpoint_every": 1000,
            "pretrained": none(str),
            "distributed": False,
            "data": {
                "name": data_set or "unknown",
                "source": "folder" if data_set else "tfds",
                "dir": none(str),
                "features": none(tuple),
                "classes": none(tuple) if data_set else told.classes or _numbered(found.num_classes),
                "train_split": "train",
                "eval_split": "val",
                "fit": none(tuple),
                "scale": (0.5, 2.0),
                "short_sides": none(tuple),
                "crop": (512, 512),
                "cat_max_ratio": 0.75,
                "flip": True,
                "distort": True,
                "workers": 4,
            },
            "model": {
                "depth": found.depth,
                "flavour": found.flavour,
                "context": "rcca",
                "loops": told.loops or 2,
                "width": found.width,
                "stem": found.stem,
                "align_corners": none(bool) if told.align_corners is None else told.align_corners,
                "implementation": none(str),
                "remat": False,
            },
            "optimizer": {
                "learning_rate": 1e-2,
                "min_learning_rate": 1e-4,
                "momentum": 0.9,
                "weight_decay": 5e-4,
                "power": 0.9,
            },
            "loss": {"auxiliary_weight": 0.4, "ohem": False, "ohem_threshold": 0.7, "ohem_min_kept": 50_000},
        }
    )


def check_recipe(config: ml_collections.ConfigDict, found: Found, told: Told, source: pathlib.Path) -> None:
    """Raise UserError, naming the key, where the recipe is not the weights'."""
    configuration.check(config)
    model = configuration.build_model(config, found.num_classes)
    there = {
        "model.flavour": (model.flavour, found.flavour),
        "model.depth": (model.depth, found.depth),
        "model.width": (model.width, found.width),
        "model.stem": (model.stem, found.stem),
        "model.context": (model.context, "rcca"),
        "model.loops": (model.loops, told.loops or model.loops),
        "model.align_corners": (
            model.aligned,
            model.aligned if told.align_corners is None else told.align_corners,
        ),
    }
    for key, (asked, has) in there.items():
        if asked != has:
            raise UserError(
                f"--config has {key}={asked}, the weights in {source} {has}; choose another variant, or set "
                f"--config.{key}={has}"
            )
    base = re.split("[/:]", config.data.name)[0]
    if told.classes is not None and base in DATASETS and data_set_of(found.num_classes, told.classes) != base:
        raise UserError(
            f"--config is for {base}, the classes in {source} are {', '.join(told.classes[:3])}, ...; choose "
            "the config of their data set"
        )
    classes = legend_of(config, found.num_classes, Told()).classes
    if len(classes) != found.num_classes:
        raise UserError(
            f"--config is for {config.data.name} with {len(classes)} classes, the weights in {source} have "
            f"{found.num_classes}; choose the config of their data set"
        )


class Legend(NamedTuple):
    """Names and colours of the classes: what `configuration.save_classes` writes."""

    classes: tuple[str, ...]
    palette: np.ndarray


def legend_of(config: ml_collections.ConfigDict, num_classes: int, told: Told) -> Legend:
    """The names and colours that are told, else those of the config's data set, else made up ones."""
    base = re.split("[/:]", config.data.name)[0]
    if base in DATASETS:
        names, colours = DATASETS[base].CLASSES, DATASETS[base].PALETTE
    else:
        names, colours = config.data.classes or _numbered(num_classes), numbered_palette(num_classes)
    return Legend(told.classes or names, colours if told.palette is None else told.palette)


def _numbered(count: int) -> tuple[str, ...]:
    return tuple(f"class {i}" for i in range(count))


# ------------------------------------------------------------------------------------ from PyTorch to us
def import_weights(
    source: pathlib.Path,
    out: pathlib.Path,
    asked: str | None,
    in_place: bool | None,
    recipe: ml_collections.ConfigDict | None,
) -> None:
    """Make the run folder, or a backbone's, and say what was found. Raises UserError."""
    if source.is_dir():
        raise UserError(f"{source} is a folder; to write a run's weights as PyTorch's pass --to torch")
    if reason := torch_weights.unreadable(source):
        raise UserError(f"{source} {reason}")
    tensors, meta = torch_weights.read(source)
    found = found_network(tensors, asked, source)
    config = None
    if found.num_classes is not None:
        told = told_by(meta, found.num_classes)
        config = plain_config(found, told) if recipe is None else recipe
        check_recipe(config, found, told, source)

    if in_place is None:
        in_place = torch_weights.has_in_place_norms(tensors, found.naming)
    elif in_place and found.flavour != "official":
        raise UserError(f"{source} has mmsegmentation's norms, which are never in-place; omit --inplace-abn")
    variables, used = converted(tensors, found, config, in_place, source)
    with new_folder(out) as folder:
        if config is None:
            with ocp.StandardCheckpointer() as checkpointer:  # a checkpoint's folder, as `best` has them
                checkpointer.save(folder.resolve() / "variables", variables)
        else:
            configuration.save(config, folder)
            configuration.save_classes(legend_of(config, found.num_classes, told), folder)
            optimizer = sgd(config.optimizer, config.steps).init(variables["params"])
            with checkpoints.Checkpoints(folder) as checkpoints:
                checkpoints.save_last(0, variables, optimizer)

    print(f"{source} is a {found}")
    print(f"{len(used)} of its {len(tensors)} tensors used; {_left_over(set(tensors) - used)}")
    if in_place:
        print("its norms are taken for in-place ABN: their scales are |weight| + 1e-5 (else --noinplace-abn)")
    if config is None:
        print(f"a ResNet alone: --config.pretrained={out}")
        return
    model = configuration.build_model(config, found.num_classes)
    print(f"taken from {_origin(told, recipe)}: loops={model.loops}, align_corners={model.aligned}")
    evaluate = f"python -m ccnet_jax.eval --workdir {out} --data-dir FOLDER"
    print(f"run in {out}, data set {config.data.name}: {evaluate}")
    if config.data.name == "unknown":
        print("to evaluate or train, convert with the --config of its data set")


def converted(
    tensors: dict[str, np.ndarray],
    found: Found,
    config: ml_collections.ConfigDict | None,
    in_place: bool,
    source: pathlib.Path,
) -> tuple[Any, set[str]]:
    """The variables of the network found, a CCNet's by its config, and the names of the tensors in them."""
    wanted = traverse_util.flatten_dict(jax.tree.map(lambda x: x.shape, _variables_like(found, config)))
    names = {key: found.naming.name(key) for key in wanted}
    if missing := sorted(set(names.values()) - set(tensors)):
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise UserError(
            f"{source} is a {found}, but lacks {', '.join(missing[:5])}{more}; take a complete file"
        )
    remedy = f"all in all it is a {found}; take another copy"
    values = {
        key: torch_weights.from_torch(tensors, key, shape, found.naming, source, remedy)
        for key, shape in wanted.items()
    }
    if in_place:
        values = torch_weights.with_in_place_scales(values)
    variables = jax.tree.map(jnp.asarray, traverse_util.unflatten_dict(values))
    return variables, set(names.values())


def _variables_like(found: Found, config: ml_collections.ConfigDict | None) -> Any:
    """`jax.ShapeDtypeStruct`s of the variables."""
    images = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    if config is not None:
        return jax.eval_shape(
            configuration.build_model(config, found.num_classes).init, jax.random.key(0), images
        )
    stem = (64,) if found.stem == "7x7" else FLAVOURS[found.flavour].stem_channels
    backbone = ResNet(found.depth, stem, width=found.width)
    variables = jax.eval_shape(lambda x: backbone.init(jax.random.key(0), x, False), images)
    return {kind: {"backbone": tree} for kind, tree in variables.items()}


def _left_over(names: set[str]) -> str:
    """What of the state dict is not in our variables."""
    counters = set(filter(torch_weights.is_counter, names))
    others = ", ".join(sorted(names - counters))
    return f"not needed: {len(counters)} counters of batches" + (f"; not used: {others}" if others else "")


def _origin(told: Told, recipe: ml_collections.ConfigDict | None) -> str:
    if recipe is not None:
        return "--config"
    if told.loops is not None and told.align_corners is not None:
        return "the checkpoint's config"
    return "the published networks, as the weights do not tell (--config does)"


@contextlib.contextmanager
def new_folder(out: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a folder that becomes `out` when all is in it. Raises UserError where `out` holds something."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out {out} is there already and not empty; choose a new folder")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = pathlib.Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    except OSError as error:
        raise UserError(f"--out {out} cannot be made ({error.strerror}); choose another folder") from None
    try:
        yield folder
        folder.chmod(0o755)  # mkdtemp's are for their owner only
        folder.replace(out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# ------------------------------------------------------------------------------------ from us to PyTorch
def export_weights(run: pathlib.Path, out: pathlib.Path, which: str, in_place: bool) -> None:
    """Write a run's weights as a PyTorch state dict, and say so. Raises UserError."""
    if not run.is_dir():
        raise UserError(f"{run} is not a folder; --to torch takes the folder of a run")
    if out.exists():
        raise UserError(f"--out {out} is there already; choose a new file")
    if out.suffix not in (".safetensors", ".pth", ".pt"):
        raise UserError(f"--out {out} is of no known kind; end it in .safetensors, .pth or .pt")
    if out.suffix != ".safetensors" and importlib.util.find_spec("torch") is None:
        raise UserError(f"--out {out} is written with PyTorch, which is not here; choose a .safetensors")
    config = configuration.load(run)
    if config.model.context != "rcca":
        raise UserError(
            f"{run} has model.context={config.model.context}, for which PyTorch's CCNets have no names; only "
            "rcca can be written"
        )
    if in_place and config.model.flavour != "official":
        raise UserError(f"{run} is of the mmseg flavour, whose norms are never in-place; omit --inplace-abn")
    folder = checkpoints.step_folder(run, which)
    if folder is None:
        raise UserError(
            f"{run} holds no checkpoint {which}; choose another --checkpoint (last, best, a folder)"
        )

    variables = traverse_util.flatten_dict(checkpoints.load_arrays(folder))
    state = torch_state(
        variables, naming_for(config), in_place, int(folder.name) if folder.name.isdigit() else 0
    )
    with errors.writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    torch_weights.write(out, state, meta_of(config, run), nested=config.model.flavour == "mmseg")
    print(f"{len(variables)} tensors and {len(state) - len(variables)} counters of {folder} in {out}")
    if config.model.flavour == "official" and not in_place:
        print(
            "norms are plain batch norms; for the authors' in-place ABN, with |weight| + 1e-5, --inplace-abn"
        )


def naming_for(config: ml_collections.ConfigDict) -> Naming:
    """The names in the flavour's own PyTorch network."""
    flavour = config.model.flavour
    stem = "torchvision" if config.model.stem == "7x7" else flavour
    return Naming("", "backbone." if flavour == "mmseg" else "", stem, flavour)


def torch_state(
    variables: dict[Key, np.ndarray], naming: Naming, in_place: bool, step: int
) -> dict[str, np.ndarray]:
    """The state dict of a CCNet's flat variables.

    Args:
      variables: {key: array}, ours.
      naming: of the result.
      in_place: write weights of which in-place ABN makes the scales, and no counters, of which it has none.
      step: what the counters of batches shall say.

    Raises:
      UserError: a scale is below 1e-5, which in-place ABN's cannot be.
    """
    state = {}
    for key, value in variables.items():
        if in_place and key[-1] == "scale":
            value = torch_weights.in_place_weight(value)
            if np.isnan(value).any():
                raise UserError(
                    f"{'/'.join(key)} holds scales below 1e-5, which in-place ABN cannot have (its are "
                    "|weight| + 1e-5); omit --inplace-abn and use plain batch norms there"
                )
        name = naming.name(key)
        state[name] = torch_weights.to_torch(value, naming)
        if key[-1] == "var" and not in_place:
            state[f"{name.removesuffix('running_var')}{torch_weights.COUNTER}"] = np.array(step, np.int64)
    return dict(sorted(state.items()))


def meta_of(config: ml_collections.ConfigDict, run: pathlib.Path) -> dict[str, Any]:
    """What `told_by` reads again, as mmsegmentation writes it."""
    head = f"type='CCHead', recurrence={config.model.loops}"
    head += f", align_corners={configuration.build_model(config, 1).aligned}"
    meta: dict[str, Any] = {"config": f"model = dict(decode_head=dict({head}))\n"}
    with contextlib.suppress(UserError):  # of a run from before classes.json that knows no names
        classes, colours = configuration.load_classes(run, config)
        meta |= {"CLASSES": list(classes), "PALETTE": colours.tolist()}
        meta["dataset_meta"] = {"classes": meta["CLASSES"], "palette": meta["PALETTE"]}
    return meta


def main(*paths: str) -> None:
    """The program."""
    logging.set_verbosity(logging.ERROR)  # Orbax reports every file at the levels below
    given, in_place = flags.FLAGS, flags.FLAGS["inplace-abn"].value
    if len(paths) > 1 or given.out is None:
        raise UserError("pass one CHECKPOINT or RUN, and --out; --help has the two ways to convert")
    source, out = (pathlib.Path(path).expanduser() for path in (paths[0], given.out))
    if given.to is None:
        import_weights(source, out, given.source, in_place, given.config)
    else:
        export_weights(source, out, given.checkpoint, bool(in_place))


if __name__ == "__main__":  # the flags too: who imports this has a --config of their own
    flags.DEFINE_enum("source", None, SOURCES, "whose names the weights have; default: as they tell")
    flags.DEFINE_string("out", None, "folder to make; with --to torch a .safetensors, .pth or .pt file")
    flags.DEFINE_enum("to", None, ["torch"], "write a run's weights as PyTorch's")
    flags.DEFINE_string("checkpoint", "last", "of the RUN: last, best, or the folder of a checkpoint")
    flags.DEFINE_bool(
        "inplace-abn",
        None,
        "norms of official weights are the authors' in-place ABN (scale |weight| + 1e-5); default: reading, "
        "as the weights tell; writing, no",
    )
    config_flags.DEFINE_config_file("config", help_string="configs/NAME.py[:VARIANT]")
    errors.run(main, "CHECKPOINT or RUN to convert")
