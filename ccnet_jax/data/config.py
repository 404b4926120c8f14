"""The settings of the data: where they lie, and how training sees them."""

import dataclasses
import os

from ccnet_jax.common.fields import nearest, setting
from ccnet_jax.data.datasets import DATASETS
from ccnet_jax.data.sizes import LARGEST, SMALLEST
from ccnet_jax.data.sources import FOLDER_KEYS, DataSet, Location

SOURCES = ("folder", "tfds")  # where a data set's files come from


@dataclasses.dataclass(frozen=True)
class DataConfig(Location):
    """`config.data`: a data set, its splits, and random resizing, cropping, flipping and distortion."""

    name: str = setting("streets", "data set: a key of `DATASETS`, or with source=tfds a TFDS name")
    source: str = setting(
        "folder", "`folder`, or `tfds` for a TFDS data set", choices=SOURCES, resumable=True, before="folder"
    )
    features: tuple[str, str] | None = setting(
        None, "names of a TFDS data set's (image, label) features", resumable=True, before=None
    )
    train_split: str = setting("train", "split to train on; `train+val` is both")
    eval_split: str = setting("val", "split to validate and test on")
    resize: tuple[int, int] | None = setting(
        None,
        "sides of a box into which images are resized first, in testing too",
        sides="(long, short) sides in pixels",
        at_least=SMALLEST,
        at_most=LARGEST,
        before=None,
    )
    scale: tuple[float, float] | None = setting(
        None,
        "ratio of random resizing",
        sides="(lowest, highest) ratio",
        at_least=SMALLEST / LARGEST,
        at_most=LARGEST / SMALLEST,
    )
    short_sides: tuple[int, ...] | None = setting(
        None,
        "lengths of the shorter side; one is drawn at random",
        sides="lengths in pixels",
        at_least=SMALLEST,
        at_most=LARGEST,
        before=None,
    )
    crop: tuple[int, int] | None = setting(
        None,
        "size of random crops; None takes whole images",
        sides="(height, width) in pixels",
        at_least=SMALLEST,
        at_most=LARGEST,
    )
    cat_max_ratio: float = setting(
        1.0, "largest fraction of one class in a crop; 1 takes any crop", above=0, at_most=1, before=1.0
    )
    flip: bool = setting(False, "mirror images at random")
    distort: bool = setting(False, "photometric distortion at random", before=False)
    workers: int = setting(
        0, "processes that make batches; 0 makes them in threads", at_least=0, at_most=1024, resumable=True
    )

    def to_open(self, split: str) -> "DataConfig":
        """These settings, where only the split to train on may have corrupt images: scores are of all."""
        return self if split == self.train_split else dataclasses.replace(self, skip_corrupt=0)

    @property
    def data_set(self) -> DataSet | None:
        """The data set, where it is opened from a folder and known here."""
        return DATASETS.get(self.name) if self.source == "folder" else None

    @property
    def task(self) -> str | None:
        """What the labels are for; None where the data set is unknown. TFDS's are for the usual task."""
        data_set = DataSet if self.source == "tfds" else self.data_set
        return None if data_set is None else data_set.task

    def problems(self) -> list[str]:
        """Messages about settings that do not go together."""
        found = []
        if self.scale is not None and self.scale[0] > self.scale[1]:
            found.append(f"config.data.scale must be (lowest, highest) ratio, not {self.scale}")
        if (self.scale is not None or self.short_sides is not None) and self.crop is None:
            found.append(
                "config.data.scale and short_sides make images of many sizes: set config.data.crop to the "
                "size of a batch's"
            )
        if self.scale is not None and self.resize is not None:
            lowest, highest = min(self.resize) * self.scale[0], max(self.resize) * self.scale[1]
            if lowest < SMALLEST or highest > LARGEST:
                found.append(
                    f"config.data.resize={self.resize} times config.data.scale={self.scale} gives sides of "
                    f"{lowest:.0f} to {highest:.0f} pixels; keep them from {SMALLEST} to {LARGEST}"
                )
        if self.features is not None and self.source != "tfds":
            found.append(
                "config.data.features is for TFDS data sets: set --config.data.source=tfds too, or leave it "
                "None"
            )
        if self.source == "tfds":
            found += [
                f"config.data.{key} is for data.source=folder; leave it None, and name a part of a TFDS "
                "split as train[:90%]"
                for key in ("images", "labels", "val_fraction")
                if getattr(self, key) is not None
            ]
        if (named := self.data_set) is not None:
            needless = "" if named.classes is None else f" {self.name} needs none:"
            found += [
                f"config.data.{key} is for data.name=folder;{needless} leave it None"
                for key in FOLDER_KEYS
                if getattr(self, key) is not None and (named.classes is not None or key not in named.keys)
            ]
        if self.palette is not None and len(self.palette) != len(self.classes or ()):
            found.append(
                f"config.data.palette has {len(self.palette)} colours but config.data.classes "
                f"{len(self.classes or ())} names; give one colour for each class"
            )
        return found

    def unknown_name(self) -> list[str]:
        """A message where the data set is none that this installation can open from a folder."""
        if self.source != "folder" or self.name in DATASETS:
            return []
        return [
            f"config.data.name={self.name!r} does not exist; choose one of {', '.join(DATASETS)}, or a TFDS "
            f"data set with --config.data.source=tfds{nearest(self.name, DATASETS)}"
        ]


def does_not_fit_memory(batch_size: int, size: tuple[int, int]) -> str | None:
    """A message where a batch of images of (height, width) takes more memory than the machine has."""
    needed = batch_size * size[0] * size[1] * 4  # bytes of three colours and a label
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed <= memory:
        return None
    return (
        f"config.batch_size={batch_size} needs {needed / 1e9:,.1f} GB for one batch of {size[1]}x{size[0]} "
        f"images, and this machine has {memory / 1e9:,.1f} GB; make it smaller"
    )
