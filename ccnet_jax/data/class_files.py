"""Names and colours of classes from a text or JSON file, and what they say about the label files."""

import dataclasses
import json
import pathlib
import re
from typing import Any

import numpy as np

from ccnet_jax.common.errors import UserError
from ccnet_jax.common.labels import UNKNOWN, VOID, Classes, numbered_palette
from ccnet_jax.data.sources import OtherClasses

FILES = ("classes.txt", "classes.json", "class_names.txt", "labelmap.txt")
MOST = 254  # indices 0 to 253; 254 and 255 have other meanings
_VOID_NAMES = ("void", "ignore", "ignored", "unlabeled", "unlabelled", "unknown", "unclassified")
_FORMS = (
    '["road", "car"], {"classes": ["road", "car"], "palette": [[R, G, B], ...]} or {"road": [R, G, B], ...}'
)

Colour = tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class NamedClass:
    """One entry of a class file: its place in the file is its number in the label files.

    Attributes:
      name: of the class.
      colour: (red, green, blue), None where the file gives none.
    """

    name: str
    colour: Colour | None = None

    @property
    def is_void(self) -> bool:
        """Whether the name says that its pixels do not count."""
        return self.name.strip("_ ").lower() in _VOID_NAMES


def read_class_file(folder: pathlib.Path) -> tuple[pathlib.Path, Classes] | None:
    """The first of `FILES` in a folder and its classes, None where there is none.

    Raises UserError where a file cannot be read, or there are two of them.
    """
    paths = [folder / name for name in FILES if (folder / name).is_file()]
    if not paths:
        return None
    if len(paths) > 1:
        raise UserError(f"{folder} has both {paths[0].name} and {paths[1].name}; keep the one that is right")
    try:
        text = paths[0].read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{paths[0]} cannot be read as text ({error}); save it as UTF-8") from None
    named = _from_json(text, paths[0]) if paths[0].suffix == ".json" else _from_text(text, paths[0])
    return paths[0], classes_of(named, str(paths[0]))


def check_same_classes(given: Classes, own: Classes, file: str) -> None:
    """Raise OtherClasses where the config and a file of the data set do not name the same classes.

    Args:
      given: the classes of `config.data.classes`.
      own: those of the data set's own file.
      file: its name.
    """
    if given.names == own.names and np.array_equal(given.label_ids, own.label_ids):
        return
    both = [
        ", ".join(f"{number} {name}" for number, name in zip(x.numbers, x.names, strict=True))
        for x in (given, own)
    ]
    raise OtherClasses(
        f"config.data.classes says that the numbers in the labels are {both[0]}, and {file} that they are "
        f"{both[1]}; omit config.data.classes, or correct the file"
    )


def classes_of(named: list[NamedClass], source: str) -> Classes:
    """The classes of a list, in which the entry with number i stands for label i.

    Entries whose name is void, ignore, unlabeled or alike become void. Where entries have colours, label
    files may be colour images; where all colours are grey, label files of one channel hold grey values.

    Args:
      named: the entries.
      source: where they are from, for error messages.

    Raises:
      UserError: there are too few, too many or equal names, or some have colours and others do not.
    """
    classes = [entry for entry in named if not entry.is_void]
    names = [entry.name for entry in classes]
    if len(names) < 2:
        raise UserError(f"{source} names {len(names)} classes; to tell classes apart takes at least two")
    if len(named) > MOST:
        raise UserError(f"{source} names {len(named)} classes; at most {MOST} fit a label of 8 bits")
    if repeated := [name for name in names if names.count(name) > 1]:
        raise UserError(f"{source} names the class {repeated[0]!r} twice; give each class its own name")
    without = [entry.name for entry in named if entry.colour is None]
    if without and len(without) < len(named):
        raise UserError(f"{source} has no colour for {without[0]!r}, but others have one; give all or none")

    index_of = {entry: VOID if entry.is_void else classes.index(entry) for entry in named}
    table = np.full(256, UNKNOWN, np.uint8)
    table[VOID] = VOID
    colours = {entry.colour: index for entry, index in index_of.items() if entry.colour is not None}
    if not colours:
        table[: len(named)] = [index_of[entry] for entry in named]
        return Classes(tuple(names), numbered_palette(len(names)), table)
    if all(red == green == blue for red, green, blue in colours):
        for (grey, *_), index in colours.items():
            table[grey] = index
    else:
        table[: len(named)] = [index_of[entry] for entry in named]
    palette = np.array([entry.colour for entry in classes], np.uint8)
    # Of two classes with one colour a colour image does not say which it shows.
    clear = all(entry.colour in colours and colours[entry.colour] == index_of[entry] for entry in named)
    return Classes(tuple(names), palette, table, colours if clear else None)


def _from_text(text: str, path: pathlib.Path) -> list[NamedClass]:
    """A class a line: "NAME", "NAME R G B" or "NAME #RRGGBB"; lines that begin with "#" are comments."""
    named = []
    for line in text.splitlines():
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        if match := re.fullmatch(r"(.+?)[\s,;:]+#([0-9a-fA-F]{6})", line):
            red, green, blue = bytes.fromhex(match[2])
            named.append(NamedClass(match[1], (red, green, blue)))
        elif match := re.fullmatch(r"(.+?)[\s,;:]+(\d{1,3})[\s,;]+(\d{1,3})[\s,;]+(\d{1,3})[:;\s]*", line):
            named.append(NamedClass(match[1], _colour([int(part) for part in match.groups()[1:]], path)))
        else:
            named.append(NamedClass(line))
    return named


def _from_json(text: str, path: pathlib.Path) -> list[NamedClass]:
    """One of the forms that `_FORMS` lists."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:  # the second of lists in lists in lists, without end
        raise UserError(f"{path} cannot be read as JSON ({error}); correct it, as in {_FORMS}") from None
    if isinstance(value, dict) and "classes" in value:
        names, colours = value["classes"], value.get("palette")
    elif isinstance(value, dict):
        names, colours = list(value), list(value.values())
    else:
        names, colours = value, None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{path} holds no list of class names; write it as {_FORMS}")
    if colours is None:
        return [NamedClass(name) for name in names]
    if not isinstance(colours, list) or len(colours) != len(names):
        raise UserError(
            f"{path} does not give one colour for each of its {len(names)} classes; write {_FORMS}"
        )
    return [NamedClass(name, _colour(colour, path)) for name, colour in zip(names, colours, strict=True)]


def _colour(value: Any, path: pathlib.Path) -> Colour:
    """Three numbers from 0 to 255. Raises UserError where they are not."""
    if (
        not isinstance(value, list)
        or len(value) != 3
        or not all(type(number) is int and 0 <= number <= 255 for number in value)
    ):
        raise UserError(f"{path} holds the colour {value}; a colour is three whole numbers from 0 to 255")
    return value[0], value[1], value[2]
