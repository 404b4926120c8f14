"""What PyTorch's code bases call the parts of a ResNet and of a CCNet, and the shapes of the parts there."""

import dataclasses
import pathlib
import re
from collections.abc import Collection, Mapping

import numpy as np

from ccnet_jax.common.errors import UserError

Key = tuple[str, ...]  # of one of our variables: ("params", "backbone", "layer1_0", "norm2", "scale")
StateDict = Mapping[str, np.ndarray]  # PyTorch's word for {name: tensor}

COUNTER = "num_batches_tracked"  # of a norm: PyTorch counts batches in it and never reads it
FITTING_FILES = (
    "the CCNet authors' resnet101-imagenet, open-mmlab's resnet50_v1c, timm's resnet50c and torchvision's "
    "resnet50"
)
# What stands before the names of a ResNet: of what the network was wrapped in (torch.compile, data parallel
# training, Lightning, a class of one's own), in any number and order, and of the network's own backbone.
_WRAPPERS = r"(?:(?:_orig_mod|module|model|net)\.)*"
_BEFORE = re.compile(rf"({_WRAPPERS})((?:backbone\.)?)layer1\.0\..*")
_ATTENTION = "head/context/rcca/attention"
_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}


@dataclasses.dataclass(frozen=True)
class StemNames:
    """The first layers of a ResNet in the state dicts of one source.

    Attributes:
      convs: names of the convolutions, in their order.
      norms: names of the norms after them.
      stem: the value of `config.model.stem` for these layers.
      flavour: the flavour that normalises images as these weights expect them; None where the width of
        the stem tells.
    """

    convs: tuple[str, ...]
    norms: tuple[str, ...]
    stem: str = "deep"
    flavour: str | None = None


@dataclasses.dataclass(frozen=True)
class HeadNames:
    """The two heads of a CCNet in the state dicts of one code base, and how that code base saves them.

    Attributes:
      modules: {our module: its name}; of the attention the module that holds its three convolutions.
      gamma: name of gamma inside the attention.
      gamma_shape: shape of gamma.
      backbone: what stands before the names of the ResNet.
      stems: {value of `config.model.stem`: key of `STEM_NAMES`}.
      nested: a .pth holds {"meta": ..., "state_dict": ...}; otherwise the state dict alone.
    """

    modules: dict[str, str]
    gamma: str
    gamma_shape: tuple[int, ...]
    backbone: str
    stems: dict[str, str]
    nested: bool

    @property
    def attention(self) -> str:
        """Name of the criss-cross attention."""
        return self.modules[_ATTENTION]


STEM_NAMES = {
    # the CCNet authors and CSAIL
    "official": StemNames(("conv1", "conv2", "conv3"), ("bn1", "bn2", "bn3")),
    # open-mmlab's resnet50_v1c, and the backbone in checkpoints of mmsegmentation
    "mmseg": StemNames(("stem.0", "stem.3", "stem.6"), ("stem.1", "stem.4", "stem.7")),
    # the 7x7 stem of torchvision, timm and open-mmlab
    "torchvision": StemNames(("conv1",), ("bn1",), stem="7x7", flavour="mmseg"),
    # timm's resnet50c and resnet50s
    "timm": StemNames(("conv1.0", "conv1.3", "conv1.6"), ("conv1.1", "conv1.4", "bn1")),
}
# The keys are those of `FLAVOURS`: each flavour is the network of one code base.
HEAD_NAMES = {
    "official": HeadNames(
        modules={
            "head/before/conv": "head.conva.0",
            "head/before/norm": "head.conva.1",
            _ATTENTION: "head.cca",
            "head/after/conv": "head.convb.0",
            "head/after/norm": "head.convb.1",
            "head/fuse/conv": "head.bottleneck.0",
            "head/fuse/norm": "head.bottleneck.1",
            "head/classifier": "head.bottleneck.3",
            "auxiliary_head/conv/conv": "dsn.0",
            "auxiliary_head/conv/norm": "dsn.1",
            "auxiliary_head/classifier": "dsn.3",
        },
        gamma="gamma",
        gamma_shape=(1,),
        backbone="",
        stems={"deep": "official", "7x7": "torchvision"},
        nested=False,
    ),
    "mmseg": HeadNames(
        modules={
            "head/before/conv": "decode_head.convs.0.conv",
            "head/before/norm": "decode_head.convs.0.bn",
            _ATTENTION: "decode_head.cca",
            "head/after/conv": "decode_head.convs.1.conv",
            "head/after/norm": "decode_head.convs.1.bn",
            "head/fuse/conv": "decode_head.conv_cat.conv",
            "head/fuse/norm": "decode_head.conv_cat.bn",
            "head/classifier": "decode_head.conv_seg",
            "auxiliary_head/conv/conv": "auxiliary_head.convs.0.conv",
            "auxiliary_head/conv/norm": "auxiliary_head.convs.0.bn",
            "auxiliary_head/classifier": "auxiliary_head.conv_seg",
        },
        gamma="gamma.scale",
        gamma_shape=(),
        backbone="backbone.",
        stems={"deep": "mmseg", "7x7": "torchvision"},
        nested=True,
    ),
}
# Of both heads; their first side is the number of classes.
CLASSIFIERS = ("head/classifier", "auxiliary_head/classifier")


@dataclasses.dataclass(frozen=True)
class Naming:
    """What one state dict calls the parts of a ResNet or of a CCNet.

    Attributes:
      prefix: before every name: "", "module.", or what else the network was wrapped in.
      backbone: after the prefix, before the names of the ResNet: "" or "backbone.".
      stem: a key of `STEM_NAMES`.
      heads: a key of `HEAD_NAMES`; None where there is a ResNet alone.
    """

    prefix: str
    backbone: str
    stem: str
    heads: str | None

    @classmethod
    def of_flavour(cls, flavour: str, stem: str) -> "Naming":
        """The names in a flavour's own code base, for the value `stem` of `config.model.stem`."""
        heads = HEAD_NAMES[flavour]
        return cls("", heads.backbone, heads.stems[stem], flavour)

    @property
    def source(self) -> str:
        """Whose names these are: the name for `--source`."""
        return self.heads or self.stem

    @property
    def stem_names(self) -> StemNames:
        """The names of the first layers."""
        return STEM_NAMES[self.stem]

    @property
    def head_names(self) -> HeadNames:
        """The names of the heads. Raises ValueError where there is a ResNet alone."""
        if self.heads is None:
            raise ValueError("a ResNet alone has no heads; ask for names of its backbone only")
        return HEAD_NAMES[self.heads]

    def backbone_name(self, name: str) -> str:
        """The whole name of a part of the ResNet."""
        return f"{self.prefix}{self.backbone}{name}"

    def head_module(self, ours: str) -> str:
        """The whole name of a module of the heads, for example of "head/before/conv"."""
        return self.prefix + self.head_names.modules[ours]

    def name(self, key: Key) -> str:
        """The name of one of our variables."""
        *modules, leaf = key[1:]
        if modules[0] == "backbone":
            return f"{self.backbone_name(self._backbone_module(*modules[1:]))}.{_LEAVES[leaf]}"
        path = "/".join(modules)
        if leaf == "gamma":
            return f"{self.head_module(path)}.{self.head_names.gamma}"
        if path.startswith(f"{_ATTENTION}/"):  # query, key or value
            return f"{self.head_module(_ATTENTION)}.{modules[-1]}_conv.{_LEAVES[leaf]}"
        return f"{self.head_module(path)}.{_LEAVES[leaf]}"

    def shape(self, key: Key, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape in PyTorch of one of our variables, which is `shape` here."""
        if key[-1] == "gamma":
            return self.head_names.gamma_shape
        match shape:
            case inside, outside:  # Dense, in PyTorch a 1x1 convolution
                return (outside, inside, 1, 1)
            case height, width, inside, outside:
                return (outside, inside, height, width)
        return shape

    def _backbone_module(self, module: str, part: str | None = None) -> str:
        """The name of ("stem_conv1",) or of ("layer1_0", "downsample_norm")."""
        if part is None:
            kind, number = module.removeprefix("stem_")[:-1], int(module[-1])
            return {"conv": self.stem_names.convs, "norm": self.stem_names.norms}[kind][number - 1]
        part = part.replace("downsample_conv", "downsample.0").replace("downsample_norm", "downsample.1")
        return f"{module.replace('_', '.')}.{part.replace('norm', 'bn')}"


def naming_of(tensors: StateDict, source: pathlib.Path) -> Naming:
    """What the state dict read from `source` calls its parts. Raises UserError where no ResNet in it fits."""
    found = {match.groups() for match in map(_BEFORE.fullmatch, tensors) if match is not None}
    for prefix, backbone in sorted(found, key=lambda parts: (len(parts[0]), parts)):
        before = prefix + backbone
        pooled = f"{before}layer1.0.downsample.2.weight"
        if pooled in tensors:
            raise UserError(
                f"{source} holds a ResNet-D, whose shortcuts pool ({pooled}); this network has no such "
                f"shortcuts; weights that fit are {FITTING_FILES}"
            )
        stem = _stem_of(tensors, before)
        if stem is not None:
            return Naming(prefix, backbone, stem, _heads_of(tensors, prefix))
    raise UserError(
        f"{source} holds no ResNet with a deep stem or torchvision's (no conv1.weight, stem.0.weight or "
        f"conv1.0.weight beside a layer1.0); weights that fit are {FITTING_FILES}"
    )


def without_wrappers(tensors: StateDict) -> StateDict:
    """A state dict without what stands before all its names since the network was wrapped in something."""
    wrapper = next((re.match(_WRAPPERS, name) for name in tensors), None)
    before = "" if wrapper is None else wrapper[0]
    if not all(name.startswith(before) for name in tensors):
        return tensors
    return {name.removeprefix(before): value for name, value in tensors.items()}


def is_counter(name: str) -> bool:
    """Whether a name is that of a norm's counter of batches."""
    return name.endswith(COUNTER)


def _stem_of(tensors: StateDict, before: str) -> str | None:
    """The key of `STEM_NAMES` whose names stand in the state dict after `before`."""
    first = tensors.get(f"{before}conv1.weight")
    if first is not None and first.shape[2:] == (7, 7):
        return "torchvision"
    for source, names in STEM_NAMES.items():
        if any(f"{before}{conv}.weight" in tensors for conv in names.convs):
            return source
    return None


def _heads_of(names: Collection[str], prefix: str) -> str | None:
    """The key of `HEAD_NAMES` whose attention is among the names."""
    for source, heads in HEAD_NAMES.items():
        if any(name.startswith(f"{prefix}{heads.attention}.") for name in names):
            return source
    return None
