"""Which ResNet a set of names belongs to, by the blocks that they name."""

import re
from collections.abc import Iterable

from ccnet_jax.models.backbones.resnet import BLOCKS

_BLOCK = re.compile(r"layer(\d)[._](\d+)[./]")  # layer1.0. in PyTorch, layer1_0/ here
_BOTTLENECK = re.compile(r"layer1[._]0[./]conv3")
_FIRST_BOTTLENECK_DEPTH = 50


def depth_of(names: Iterable[str]) -> int | None:
    """The depth of the ResNet whose blocks are named, PyTorch's way or ours; None if not in `BLOCKS`."""
    counts, bottleneck = _blocks(names)
    for depth, known in BLOCKS.items():
        if known == counts and (depth >= _FIRST_BOTTLENECK_DEPTH) == bottleneck:
            return depth
    return None


def resnet_title(names: Iterable[str]) -> str:
    """For example "ResNet-50"; of a ResNet that is not in `BLOCKS` the number and kind of its blocks."""
    names = set(names)
    depth = depth_of(names)
    if depth is not None:
        return f"ResNet-{depth}"
    counts, bottleneck = _blocks(names)
    kind = "bottleneck" if bottleneck else "basic"
    return f"ResNet of {', '.join(map(str, counts))} {kind} blocks"


def _blocks(names: Iterable[str]) -> tuple[tuple[int, ...], bool]:
    """The number of blocks in each of the four stages, and whether they are bottlenecks."""
    names = set(names)
    blocks = {match.groups() for name in names if (match := _BLOCK.search(name))}
    counts = tuple(sum(stage == str(i) for stage, _ in blocks) for i in (1, 2, 3, 4))
    return counts, any(map(_BOTTLENECK.search, names))
