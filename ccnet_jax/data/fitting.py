"""Whether data have the classes of a trained network, and the data as that network's labels.

A network knows its classes by their order, a data set by the numbers in its label files. Only names say which
class of the one is which of the other.
"""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from ccnet_jax.common.errors import UserError
from ccnet_jax.common.labels import Classes, numbered_palette
from ccnet_jax.data.instances import InstanceSource, Objects
from ccnet_jax.data.sources import LazySource, Source, files_of
from ccnet_jax.data.tiles import TiledImage


def fit_classes(source: Any, classes: Classes, run: object, data: object) -> Any:
    """The source with the classes of a trained network, in their order.

    The same names in another order are the same classes. Of a network whose classes are mere numbers
    ("class 0", "class 1", ...) the data may have fewer, if nothing names theirs either.

    Args:
      source: a `Source` or an `InstanceSource`, with the classes that the data themselves name.
      classes: of the network.
      run: what to call the network in messages.
      data: what to call the data.

    Raises:
      UserError: the data have other classes, with both lists.
    """
    own, wanted = tuple(source.classes), classes.names
    if own == wanted:
        return source
    found, instances = classes_of_source(source), isinstance(source, InstanceSource)
    if sorted(own) == sorted(wanted):
        label_classes = found.in_order(wanted)
    elif len(own) < len(wanted) and classes.are_numbered and found.are_numbered and not instances:
        label_classes = Classes(wanted, numbered_palette(len(wanted)), counted=found.counted)
    else:
        raise UserError(_other_classes(classes, found, run, data))
    indices = np.arange(256, dtype=np.uint8)  # of the source's classes, in the network's
    indices[: len(own)] = [wanted.index(name) for name in own]
    if instances:
        return FittedInstances(source, label_classes, indices)
    kind = FittedLazySource if isinstance(source, LazySource) else FittedSource
    return kind(source, label_classes, indices)


def classes_of_source(source: Any) -> Classes:
    """The classes of a `Source` or an `InstanceSource`, with what the label files of the first hold."""
    own: Classes | None = getattr(source, "label_classes", None)
    return own or Classes(source.classes, source.palette)


def as_opened(source: Any) -> Any:
    """The source that was made to fit, or the source itself."""
    return source.source if isinstance(source, FittedSource | FittedInstances) else source


def _other_classes(classes: Classes, found: Classes, run: object, data: object) -> str:
    """An error message with both lists."""
    lists = f"{run} has the {_list_names(classes.names)}, and {data} has the {_list_names(found.names)}"
    if classes.are_numbered != found.are_numbered:
        which = "the run" if classes.are_numbered else "the data"
        remedy = (
            "give the data the class file of the training data"
            if found.are_numbered
            else "train or convert with the names (--config.data.classes), or take the class file away where "
            "the numbers mean the same"
        )
        return f"{lists}: nothing names the classes of {which}, so no number is known to be a class; {remedy}"
    only = [
        f"only {where} has {', '.join(rest)}"
        for where, rest in (
            ("the run", _without(classes.names, found.names)),
            ("the data", _without(found.names, classes.names)),
        )
        if rest
    ]
    return f"{lists} ({'; '.join(only)}); take data with the classes of the run, or correct their names"


def _list_names(names: Sequence[str]) -> str:
    return f"{len(names)} {'class' if len(names) == 1 else 'classes'} {', '.join(names)}"


def _without(names: Sequence[str], others: Sequence[str]) -> list[str]:
    return [name for name in names if name not in others]


class FittedSource:
    """A `Source` whose labels are indices of a network's classes.

    Args:
      source: the images.
      classes: the network's, with what the source's label files hold.
      indices: uint8 [256], from the source's labels to the network's.
    """

    def __init__(self, source: Source, classes: Classes, indices: np.ndarray):
        self.source, self.label_classes, self._indices = source, classes, indices
        self.classes, self.palette, self.numbers = classes.names, classes.palette, classes.numbers

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        sample = self.source[index]
        return {**sample, "label": self._indices[sample["label"]]}

    def name(self, index: int) -> str:
        """The name that the source gives."""
        return self.source.name(index)

    def files(self) -> list[pathlib.Path]:
        """The source's files."""
        return files_of(self.source)


class FittedLazySource(FittedSource):
    """The same of a `LazySource`."""

    def lazy(self, index: int) -> dict[str, TiledImage]:
        """As `source[index]`, with images whose windows are decoded when they are asked for."""
        assert isinstance(self.source, LazySource)
        sample = self.source.lazy(index)
        return {**sample, "label": sample["label"].map_values(self._indices)}


class FittedInstances:
    """An `InstanceSource` whose objects have indices of a network's classes.

    Args:
      source: the images.
      classes: the network's.
      indices: uint8 [256], from the source's classes to the network's.
    """

    def __init__(self, source: InstanceSource, classes: Classes, indices: np.ndarray):
        self.source, self._indices = source, indices
        self.classes, self.palette = classes.names, classes.palette
        own = [source.classes.index(name) for name in classes.names]
        self.class_ids = tuple(source.class_ids[i] for i in own)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return self.source[index]

    def name(self, index: int) -> str:
        """The name that the source gives."""
        return self.source.name(index)

    def files(self) -> list[pathlib.Path]:
        """The source's files."""
        return files_of(self.source)

    def image_id(self, index: int) -> int:
        """The data set's own number of the image."""
        return self.source.image_id(index)

    def size(self, index: int) -> tuple[int, int]:
        """(height, width) of the image."""
        return self.source.size(index)

    def count(self, index: int) -> int | None:
        """How many objects the image has; see `InstanceSource`."""
        return self.source.count(index)

    def objects(self, index: int) -> Objects:
        """The objects of the image."""
        found = self.source.objects(index)
        return dataclasses.replace(found, classes=self._indices[found.classes].astype(np.int32))
