"""Progress bars."""

from typing import Any

import tqdm


def progress_bar(*arguments: Any, **details: Any) -> tqdm.tqdm:
    """A tqdm bar."""
    return tqdm.tqdm(*arguments, dynamic_ncols=True, **details)
