"""The names of arrays in a checkpoint, which are also paths to them: none leads out of its folder."""

import os
import pathlib
from collections.abc import Iterator
from typing import Any

from ccnet_jax.common.errors import UserError, read_json

_FILE = "_METADATA"  # Orbax's list of the arrays


def check_names(folder: pathlib.Path) -> None:
    """Raise UserError where a checkpoint names an array that lies elsewhere, or its list of them is corrupt.

    Where its arrays are files of their own, Orbax opens what a name says, also an absolute path.

    Args:
      folder: of one item of a checkpoint, as `STEP/variables`.
    """
    path = folder / _FILE
    if not path.exists():
        return  # Orbax says what is missing
    values = read_json(path, "take another checkpoint")
    try:
        names = list(_names(values))
    except (KeyError, TypeError, AttributeError):
        raise UserError(f"{path} lists no arrays; take another checkpoint") from None
    for name in names:
        if name in (os.curdir, os.pardir) or "/" in name or os.sep in name:
            raise UserError(f"{path} names the array {name!r}, outside its folder; take another checkpoint")


def _names(values: Any) -> Iterator[str]:
    """Every part of the name of every array."""
    for entry in values["tree_metadata"].values():
        for part in entry["key_metadata"]:
            yield str(part["key"])
