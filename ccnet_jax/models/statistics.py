"""How many values a norm takes a mean and a variance from: of a single one, its result is always the bias."""

import contextlib
import contextvars
import math
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import numpy as np

_part_of_a_batch = contextvars.ContextVar("part_of_a_batch", default=False)


class SingleValue(ValueError):
    """A norm would normalise each value by itself.

    Args:
      layer: names of the modules from the root of the network to the norm.
      shape: of the norm's input.
      of_image: whether the norm looks at each image alone, so that more images do not help.
    """

    def __init__(self, layer: tuple[str, ...], shape: tuple[int, ...], of_image: bool = False):
        self.layer, self.shape, self.of_image = "/".join(layer), tuple(shape), of_image
        remedy = "larger images" if of_image else "more images at once, or larger ones"
        super().__init__(
            f"{self.layer or 'the norm'} expects more than 1 value per channel in training, but its input is "
            f"{list(self.shape)}: a value minus its own mean is 0 in every image; give it {remedy}"
        )


@contextlib.contextmanager
def part_of_a_batch() -> Iterator[None]:
    """Inside, what is traced sees one device's images of a larger batch: norms of one value are allowed."""
    token = _part_of_a_batch.set(True)
    try:
        yield
    finally:
        _part_of_a_batch.reset(token)


def check_count(layer: tuple[str, ...], shape: tuple[int, ...], count: int, of_image: bool = False) -> None:
    """Raise `SingleValue` where a mean and a variance in training are of `count` = 1 value."""
    if count == 1 and not _part_of_a_batch.get():
        raise SingleValue(layer, shape, of_image)


@contextlib.contextmanager
def every_norm_checked() -> Iterator[None]:
    """Inside, `check_count` holds for the norms of any module that is traced, also of one that is not ours.

    A module that changes statistics of its own in "batch_stats" is a batch norm, whatever its class.
    """
    with nn.intercept_methods(_checked_call):
        yield


def _checked_call(
    call: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    context: nn.module.InterceptorContext,
) -> Any:
    """A call of a module's method, and `check_count` after it."""
    module = context.module
    if context.method_name != "__call__" or module.scope is None or module.is_initializing():
        return call(*args, **kwargs)
    before = _own_statistics(module)
    result = call(*args, **kwargs)
    x = next(
        (value for value in (*args, *kwargs.values()) if isinstance(value, jax.Array | np.ndarray)), None
    )
    if x is None or x.ndim < 2:
        return result
    after = _own_statistics(module)
    for name, statistic in after.items():
        changed = statistic is not before.get(name)
        if changed and np.size(statistic) in x.shape:  # one number a channel
            check_count(module.path, x.shape, x.size // np.size(statistic))
    if isinstance(module, nn.GroupNorm):
        groups = module.num_groups or x.shape[-1] // (module.group_size or 1)
        check_count(module.path, x.shape, x.size // (len(x) * groups), of_image=True)
    if isinstance(module, nn.InstanceNorm):
        check_count(module.path, x.shape, math.prod(x.shape[1:-1]), of_image=True)
    return result


def _own_statistics(module: nn.Module) -> dict[str, Any]:
    """{name: array} in "batch_stats" of the module itself, without those of the modules inside."""
    found = module.variables.get("batch_stats", {})
    return {name: value for name, value in found.items() if hasattr(value, "shape")}
