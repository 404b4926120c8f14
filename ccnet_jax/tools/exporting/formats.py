"""What a format of exported files is, to those that write one and to those that call one."""

import importlib.util
import pathlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

from ccnet_jax.common.errors import UserError
from ccnet_jax.tools.exporting.program import Program


class Disagrees(UserError):
    """A file that was written does not compute what the network computes."""


class Format(NamedTuple):
    """A member of `FORMATS`.

    Attributes:
      suffix: of the files; "" is a folder.
      packages: modules that it needs beside JAX.
      install: what `pip install` gets them by.
      dtypes: of the computation; the first where a run's own is not among them.
      any_task: whether it takes networks, too, that do not label pixels.
      write: (program, path); raises UserError where the network cannot be written so.
      compare: (program, path) -> a message for each size at which the file was run and agreed with the
        jitted model; raises Disagrees.
    """

    suffix: str
    packages: tuple[str, ...]
    install: str
    dtypes: tuple[str, ...]
    any_task: bool
    write: Callable[[Program, pathlib.Path], None]
    compare: Callable[[Program, pathlib.Path], Iterator[str]]

    def missing_packages(self) -> list[str]:
        """The packages that are not installed."""
        return [name for name in self.packages if importlib.util.find_spec(name) is None]
