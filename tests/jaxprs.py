"""The operations of a program that JAX has traced."""

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

from jax.extend import core


def inner_programs(value: Any) -> Iterator[core.Jaxpr]:
    """The programs in a parameter of an operation."""
    if isinstance(value, core.ClosedJaxpr):
        yield value.jaxpr
    elif isinstance(value, core.Jaxpr):
        yield value
    elif isinstance(value, tuple | list):
        for one in value:
            yield from inner_programs(one)


def used_operations(program: core.Jaxpr, used: Iterable[bool] | None = None) -> Iterator[core.JaxprEqn]:
    """Every operation whose result is used, with those of inner programs.

    used: which results of the program are; None is all.
    """
    results = program.outvars if used is None else itertools.compress(program.outvars, used)
    wanted = {id(variable) for variable in results}
    for operation in reversed(program.eqns):
        used = [id(variable) in wanted for variable in operation.outvars]
        if not any(used) and not operation.effects:
            continue
        wanted |= {id(variable) for variable in operation.invars}
        yield operation
        is_call = operation.primitive.name in ("jit", "pjit", "closed_call", "remat2", "checkpoint")
        for value in operation.params.values():
            for inner in inner_programs(value):
                yield from used_operations(inner, used if is_call else None)
