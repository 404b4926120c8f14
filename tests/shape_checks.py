"""Checks, while the tests run, that arrays have the shapes and types that the signatures say."""

import typing
from collections.abc import Callable

import jaxtyping
from beartype import BeartypeConf, beartype

_beartype = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int passes as a float, as in type checkers


def checked(function: Callable) -> Callable:
    """`function` with a check of its annotations, if arrays are among them.

    The others are left as they are: the tests pass stand-ins, and shapes are what no type checker sees.
    """
    return _beartype(function) if any(map(_has_array, function.__annotations__.values())) else function


def _has_array(annotation: object) -> bool:
    """Whether an annotation is an array with a shape, or has one inside."""
    if isinstance(annotation, type) and issubclass(annotation, jaxtyping.AbstractArray):
        return True
    return any(map(_has_array, typing.get_args(annotation)))
