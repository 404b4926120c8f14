"""JSON files that are whole or not there at all."""

import json
import pathlib
from typing import Any


def write_json(path: pathlib.Path, value: Any) -> None:
    """Write beside the file, then give it its name: who is killed in between leaves the one before."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(value, indent=2) + "\n")
    temporary.replace(path)
