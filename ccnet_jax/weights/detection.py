"""Which network a PyTorch state dict belongs to, found in the names and shapes of its tensors."""

import collections
import dataclasses
import pathlib
from collections.abc import Iterable

from ccnet_jax.common.errors import UserError
from ccnet_jax.models.config import ModelConfig
from ccnet_jax.models.flavours import FLAVOURS
from ccnet_jax.models.layers import scale_channels
from ccnet_jax.weights.naming import CLASSIFIERS, HEAD_NAMES, Naming, StateDict, is_counter, naming_of
from ccnet_jax.weights.resnet_depth import depth_of, resnet_title

_FULL_WIDTH = 512  # channels of stage 4's first convolutions and of the head, at width 1


@dataclasses.dataclass(frozen=True)
class DetectedNetwork:
    """The network that a state dict belongs to.

    Attributes:
      naming: what the state dict calls its parts.
      flavour: a key of `FLAVOURS`.
      depth: of the ResNet.
      width: multiplier of every channel count.
      num_classes: None of a ResNet alone.
    """

    naming: Naming
    flavour: str
    depth: int
    width: float
    num_classes: int | None

    @property
    def stem(self) -> str:
        """The value of `config.model.stem`."""
        return self.naming.stem_names.stem

    @property
    def model(self) -> ModelConfig:
        """The settings that build this network; loops and align_corners are not told by weights."""
        return ModelConfig(
            backbone="resnet", depth=self.depth, flavour=self.flavour, stem=self.stem, width=self.width
        )

    def __str__(self) -> str:
        width = "" if self.width == 1 else f" of {self.width:g} times the width"
        title = f"ResNet-{self.depth}{width} with the {self.stem} stem"
        if self.num_classes is None:
            return title
        return f"CCNet of the {self.flavour} flavour, {title}, {self.num_classes} classes"


def detect_network(tensors: StateDict, expected_source: str | None, source: pathlib.Path) -> DetectedNetwork:
    """The network that the state dict read from `source` belongs to.

    Args:
      tensors: the state dict.
      expected_source: whose names the user expects, a key of `STEM_NAMES`; None takes any.
      source: the file, for error messages.

    Raises:
      UserError: it is another network than a CCNet or a ResNet, or its names are another source's.
    """
    naming = naming_of(tensors, source)
    block_names = {name for name in tensors if name.startswith(naming.backbone_name("layer"))}
    if naming.heads is None:
        _check_resnet_alone(set(tensors) - block_names, naming, source)
    if expected_source is not None and expected_source != naming.source:
        raise UserError(
            f"the names in {source}, for example {min(block_names)}, are those of {naming.source}; pass "
            f"--source {naming.source}"
        )
    depth = depth_of(block_names)
    if depth is None:
        raise UserError(
            f"{source} holds a {resnet_title(block_names)}, which is no known depth; take a complete file"
        )
    width = _width(tensors, naming)
    return DetectedNetwork(
        naming,
        naming.heads or _flavour_of_backbone(tensors, naming, width),
        depth,
        width,
        None if naming.heads is None else _num_classes(tensors, naming),
    )


def _check_resnet_alone(names_outside_blocks: set[str], naming: Naming, source: pathlib.Path) -> None:
    """Raise UserError where a state dict without CCNet's heads has more than a ResNet for classification."""
    parts = (*naming.stem_names.convs, *naming.stem_names.norms, "fc")
    expected = tuple(f"{naming.backbone_name(part)}." for part in parts)
    for name in sorted(names_outside_blocks):
        if not name.startswith(expected) and not is_counter(name):
            attentions = [f"{heads.attention}.query_conv.weight ({key})" for key, heads in HEAD_NAMES.items()]
            raise UserError(
                f"{source} holds another network than CCNet: it has {name}, but no "
                f"{' or '.join(attentions)}; take the file of a CCNet or of a ResNet"
            )


def _flavour_of_backbone(tensors: StateDict, naming: Naming, width: float) -> str:
    """The flavour that a ResNet alone fits: by its source, else the one whose stem is as wide."""
    names = naming.stem_names
    if names.flavour is not None:
        return names.flavour
    channels = _first_side(tensors, f"{naming.backbone_name(names.convs[-1])}.weight") or 0

    def difference(flavour: str) -> int:
        return abs(scale_channels(FLAVOURS[flavour].stem_channels[-1], width) - channels)

    return min(FLAVOURS, key=difference)


def _width(tensors: StateDict, naming: Naming) -> float:
    """The multiplier of the channel counts."""
    names = [naming.backbone_name(f"layer4.{block}.conv1.weight") for block in (0, 1, 2)]
    if naming.heads is not None:
        convs = ("head/before/conv", "head/after/conv", "head/fuse/conv")
        names += [f"{naming.head_module(conv)}.weight" for conv in convs]
    return _most_common(_first_side(tensors, name) for name in names) / _FULL_WIDTH


def _num_classes(tensors: StateDict, naming: Naming) -> int:
    """The number of classes of a CCNet."""
    modules = [naming.head_module(classifier) for classifier in CLASSIFIERS]
    names = [f"{module}.{leaf}" for module in modules for leaf in ("weight", "bias")]
    return _most_common(_first_side(tensors, name) for name in names)


def _first_side(tensors: StateDict, name: str) -> int | None:
    """The first side of a tensor; None where it is missing or a single number."""
    return tensors[name].shape[0] if name in tensors and tensors[name].ndim else None


def _most_common(numbers: Iterable[int | None]) -> int:
    """The number that occurs most often, 1 where there is none: a single wrong tensor does not decide."""
    counts = collections.Counter(number for number in numbers if number)
    return counts.most_common(1)[0][0] if counts else 1
