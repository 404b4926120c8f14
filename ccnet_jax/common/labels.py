"""What the numbers in a label map mean: classes, their names and colours, and void."""

from collections.abc import Sequence

import numpy as np

VOID = 255  # the label of pixels that count nowhere
UNKNOWN = 254  # in a table of label ids: no such id


class Classes:
    """The classes of a data set, and what the label files hold.

    Args:
      names: of the classes.
      palette: uint8 [len(names), 3] RGB.
      label_ids: [256] uint8 table from the files' numbers to indices into `names`, `VOID`, or `UNKNOWN`
        for those that the data set does not have; None where the files hold the indices and 255.
      label_colours: {(red, green, blue): index or `VOID`} of label files that are colour images; None where
        colour images are no label files.
      counted: whether nothing names the classes and there are as many as the labels hold. Labels that are
        added later may change their number.

    Attributes:
      names, palette, label_ids, label_colours, counted: as given.
      numbers: uint8 [len(names)], the number that stands for each class in the label files.
    """

    def __init__(
        self,
        names: tuple[str, ...],
        palette: np.ndarray,
        label_ids: np.ndarray | None = None,
        label_colours: dict[tuple[int, int, int], int] | None = None,
        counted: bool = False,
    ):
        if label_ids is None:
            label_ids = np.full(256, UNKNOWN, np.uint8)
            label_ids[: len(names)] = np.arange(len(names))
            label_ids[VOID] = VOID
        self.names, self.palette = names, palette
        self.label_ids, self.label_colours, self.counted = label_ids, label_colours, counted
        self.numbers = np.array([np.argmax(label_ids == i) for i in range(len(names))], np.uint8)

    @classmethod
    def with_numbers(cls, names: tuple[str, ...], palette: np.ndarray, numbers: Sequence[int]) -> "Classes":
        """Classes for which these numbers stand in label files, one for each name.

        Raises ValueError where there are more or fewer numbers, or two of them are the same.
        """
        if len(set(numbers)) != len(names) or len(numbers) != len(names):
            raise ValueError("each class needs a number of its own")
        label_ids = np.full(256, UNKNOWN, np.uint8)
        label_ids[VOID] = VOID
        for index, number in enumerate(numbers):
            if type(number) is not int or not 0 <= number < 256:
                raise ValueError(f"{number!r} is no number of a class: 0 to 255")
            label_ids[number] = index
        return cls(names, palette, label_ids)

    @property
    def are_numbered(self) -> bool:
        """Whether nothing names the classes, which are called "class 0", "class 1" and so on."""
        return self.names == numbered_names(len(self.names))

    def in_order(self, names: Sequence[str]) -> "Classes":
        """The same classes in the order of `names`: the same label files, read as other indices.

        Raises ValueError where `names` are not the same names.
        """
        if sorted(names) != sorted(self.names):
            raise ValueError(f"{names} are not {self.names}")
        order = [self.names.index(name) for name in names]
        index_of = np.arange(256, dtype=np.uint8)
        index_of[order] = np.arange(len(order))
        colours = self.label_colours
        if colours is not None:
            colours = {colour: int(index_of[index]) for colour, index in colours.items()}
        return Classes(tuple(names), self.palette[order], index_of[self.label_ids], colours, self.counted)

    @property
    def colours(self) -> tuple[tuple[int, int, int], ...]:
        """The palette as plain numbers, which can be compared and hashed."""
        return tuple((int(red), int(green), int(blue)) for red, green, blue in self.palette)


def numbered_palette(count: int) -> np.ndarray:
    """The colours of the Pascal VOC challenge for any number of classes, at most 256: uint8 [count, 3] RGB.

    Bit 3k + c of a class number is bit 7 - k of its colour's channel c.
    """
    numbers, channels = np.arange(count)[:, None], np.arange(3)
    colours = np.zeros((count, 3), np.int64)
    for k in range(3):
        colours |= ((numbers >> (3 * k + channels)) & 1) << (7 - k)
    return colours.astype(np.uint8)


def numbered_names(count: int) -> tuple[str, ...]:
    """ "class 0", "class 1", ...: names for classes that nothing names."""
    return tuple(f"class {i}" for i in range(count))
