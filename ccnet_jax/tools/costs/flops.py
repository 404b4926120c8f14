"""The floating point operations of a traced JAX program, by the module that makes them.

A multiply-add is two operations. Convolutions and matrix products are counted; elementwise work is counted
apart, one operation for each number that is computed or summed. Padding counts as if it were data, as is
usual. What is computed twice, as under `jax.checkpoint`, counts twice; what no result needs, not at all.

Libraries count otherwise. `cost_analysis` of a program lowered by `jax.jit` (JAX 0.10) leaves out padding,
12 % of a 3x3 convolution at 10x12 pixels, counts the body of a loop once, and gives one sum for a whole
program, in which products and elementwise work are one. Flax's `nn.tabulate(..., compute_flops=True)` (0.12)
takes its numbers from there, knows neither loss nor optimizer, and ends with an AttributeError at RCCA, a
`nn.scan`.
"""

import collections
import contextlib
import dataclasses
import math
import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.ad_checkpoint import checkpoint_name
from jax.extend.core import Jaxpr, JaxprEqn
from jax.interpreters import partial_eval
from jaxtyping import Array, Float, Float32

from ccnet_jax.common.kernels import IMPLEMENTATIONS, Arrays, Backend, split_packed

COUNTED = "counted"  # the name of the backend that stands for every other while a program is traced
_FORWARD, _BACKWARD = "criss_cross_by_definition", "criss_cross_gradient_by_definition"
_ELEMENTWISE = {
    *("add", "sub", "mul", "div", "neg", "abs", "max", "min", "sign", "floor", "round", "clamp", "add_any"),
    *("exp", "exp2", "log", "log1p", "expm1", "tanh", "logistic", "sqrt", "rsqrt", "pow", "integer_pow"),
    *("square", "erf", "select_n"),
}
_REDUCTIONS = {"reduce_sum", "reduce_max", "reduce_min", "argmax", "argmin", "cumsum", "cumlogsumexp"}


@dataclasses.dataclass(frozen=True)
class Operations:
    """Floating point operations.

    Attributes:
      products: of convolutions, matrix products and attention; a multiply-add is two.
      elementwise: of everything else.
    """

    products: int = 0
    elementwise: int = 0

    def __add__(self, other: "Operations") -> "Operations":
        return Operations(self.products + other.products, self.elementwise + other.elementwise)

    def __mul__(self, times: int) -> "Operations":
        return Operations(self.products * times, self.elementwise * times)


def operations(function: Callable, *arguments: Any) -> dict[tuple[str, ...], Operations]:
    """Operations of function(*arguments) by the path of names in whose scope they are made.

    Flax puts a module's work into the scope of its name, and JAX its transformations around it: a path is as
    ("transpose", "jvp", "CCNet", "backbone", "layer1_0", "conv1"). Criss-cross attention is counted by its
    definition, `criss_cross_products`, if the program names the backend `COUNTED` inside `counted_attention`.

    Args:
      function: to trace.
      arguments: arrays, `jax.ShapeDtypeStruct`s or pytrees of them.

    Raises:
      ValueError: the program holds a kernel, or a loop of unknown length, whose products cannot be counted.
    """
    with jax.default_device(jax.devices("cpu")[0]):  # a GPU gets more padding
        closed = jax.make_jaxpr(function)(*arguments)
    jaxpr, _ = partial_eval.dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars))
    found: dict[tuple[str, ...], Operations] = collections.defaultdict(Operations)
    _count(jaxpr, (), 1, found)
    return dict(found)


def total(found: dict[tuple[str, ...], Operations]) -> Operations:
    """The sum over all paths."""
    return sum(found.values(), Operations())


def criss_cross_products(shape: tuple[int, ...], key_channels: int, value_channels: int) -> int:
    """Operations of criss-cross attention, forward: 2 B H W (H + W - 1) (D + C); the softmax is left out.

    Every pixel has H + W - 1 keys: D multiply-adds for the energy of each, C for the sum of the values.

    Args:
      shape: (B, H, W).
      key_channels: D.
      value_channels: C.
    """
    batch, height, width = shape
    return 2 * batch * height * width * (height + width - 1) * (key_channels + value_channels)


@contextlib.contextmanager
def counted_attention() -> Iterator[None]:
    """Inside, there is a backend of criss-cross attention by the name `COUNTED`, for tracing only."""
    IMPLEMENTATIONS[COUNTED] = Backend(_attend, automatic=False)
    try:
        yield
    finally:
        del IMPLEMENTATIONS[COUNTED]


def _attend(arrays: Arrays, key_channels: int) -> tuple[jax.Array, jax.Array]:
    out, lse = _attention(*split_packed(arrays, key_channels))
    # as the GPU kernels name their results: `remat` keeps them
    return checkpoint_name(out, "criss_cross"), checkpoint_name(lse, "criss_cross")


def _attention_by_definition(
    query: Float[Array, "B H W D"], key: Float[Array, "B H W D"], value: Float[Array, "B H W C"]
) -> tuple[Float[Array, "B H W C"], Float32[Array, "B H W"]]:
    """Results of the right shapes that depend on all arguments: only the call itself is counted."""
    return value * (query * key).sum(-1, keepdims=True), query.sum(-1).astype("float32")


def _gradient_by_definition(arrays: Arrays, upstream: Arrays) -> Arrays:
    """As `_attention_by_definition`."""
    changes = upstream[0].sum(-1, keepdims=True) + upstream[1][..., None].astype(upstream[0].dtype)
    return tuple(x * changes * arrays[i - 1].sum(-1, keepdims=True) for i, x in enumerate(arrays))


_attention_by_definition.__name__, _gradient_by_definition.__name__ = _FORWARD, _BACKWARD
_forward, _backward = jax.jit(_attention_by_definition), jax.jit(_gradient_by_definition)
_attention = jax.custom_vjp(_forward)
_attention.defvjp(lambda *arrays: (_forward(*arrays), arrays), _backward)


def _count(jaxpr: Jaxpr, path: tuple[str, ...], times: int, found: dict[tuple[str, ...], Operations]) -> None:
    """Add the operations of a program that runs `times` times inside `path`."""
    for eqn in jaxpr.eqns:
        inside = path + _names(str(eqn.source_info.name_stack))
        name = eqn.primitive.name
        if own := _own_operations(eqn):
            found[inside] += own * times
        elif name == "cond":
            branches: list[dict[tuple[str, ...], Operations]] = []
            for branch in eqn.params["branches"]:
                branches.append(collections.defaultdict(Operations))
                _count(branch.jaxpr, inside, times, branches[-1])
            for where, most in max(branches, key=lambda branch: total(branch).products).items():
                found[where] += most
        elif name == "while":
            body: dict[tuple[str, ...], Operations] = collections.defaultdict(Operations)
            _count(eqn.params["body_jaxpr"].jaxpr, inside, times, body)
            if total(body).products:
                raise ValueError("the products of a while loop cannot be counted: its length is not known")
        elif name == "pallas_call":
            raise ValueError(f"the products of the kernel {inside} cannot be counted")
        elif not _combines_numbers(eqn):
            again = eqn.params["length"] if name == "scan" else 1
            for inner in _inner_programs(eqn):
                _count(inner, inside, times * again, found)


def _names(stack: str) -> tuple[str, ...]:
    """The scopes and transformations of a name stack: "transpose(jvp(CCNet))/head" has four."""
    return tuple(filter(None, re.split(r"[/()]+", stack)))


def _inner_programs(eqn: JaxprEqn) -> Iterator[Jaxpr]:
    """The programs that an equation calls."""
    for value in eqn.params.values():
        inner = getattr(value, "jaxpr", value)  # a closed one holds an open one
        if isinstance(inner, Jaxpr):
            yield inner


def _combines_numbers(eqn: JaxprEqn) -> bool:
    """Whether the equation's inner programs only say how two numbers become one."""
    return eqn.primitive.name in ("reduce", "sort", "scatter", "scatter-add")


def _own_operations(eqn: JaxprEqn) -> Operations | None:
    """The operations of a primitive; None of one that calls other programs, or computes nothing."""
    name = eqn.primitive.name
    if eqn.params.get("name") in (_FORWARD, _BACKWARD):
        query, value = _shape(eqn.invars[0]), _shape(eqn.invars[2])
        forward = criss_cross_products(query[:3], query[-1], value[-1])
        # each of the two products has two gradients, each as large as the product
        return Operations(forward if eqn.params["name"] == _FORWARD else 2 * forward)
    if name == "dot_general":
        return Operations(_dot(eqn))
    if name == "conv_general_dilated":
        return Operations(_convolution(eqn))
    dtype = getattr(eqn.outvars[0].aval, "dtype", int) if eqn.outvars else int
    if not jax.numpy.issubdtype(dtype, jax.numpy.floating):
        return None
    out = math.prod(_shape(eqn.outvars[0]))
    if name in _ELEMENTWISE:
        return Operations(elementwise=out)
    if name in _REDUCTIONS:
        return Operations(elementwise=math.prod(_shape(eqn.invars[0])))
    if name.startswith("reduce_window"):
        return Operations(elementwise=out * math.prod(eqn.params["window_dimensions"]))
    return None


def _dot(eqn: JaxprEqn) -> int:
    """2 times the result's numbers times the length of the sum."""
    (contracted, _), _ = eqn.params["dimension_numbers"]
    left = _shape(eqn.invars[0])
    return 2 * math.prod(_shape(eqn.outvars[0])) * math.prod(left[axis] for axis in contracted)


def _convolution(eqn: JaxprEqn) -> int:
    """2 times the result's channels and images, times the kernel, times the positions where it is applied.

    The gradient of a strided convolution has zeros between its inputs, and its work is that of the
    convolution itself: of each axis the shorter one of input and result tells how often the kernel is
    applied.
    """
    numbers = eqn.params["dimension_numbers"]
    left, right, out = map(_shape, (*eqn.invars, *eqn.outvars))
    batch, features, *out_axes = numbers.out_spec
    _, kernel_features, *kernel_axes = numbers.rhs_spec
    positions = math.prod(min(left[i], out[j]) for i, j in zip(numbers.lhs_spec[2:], out_axes, strict=True))
    kernel = right[kernel_features] * math.prod(right[axis] for axis in kernel_axes)
    return 2 * out[batch] * out[features] * positions * kernel


def _shape(x: Any) -> tuple[int, ...]:
    """Of a variable or a constant in a program."""
    return tuple(x.aval.shape)
