"""A program of JAX as an ONNX graph.

The program is traced, and each of its operations written by its rule (`onnx_rules.RULES`). What does not
depend on the images is computed here, by JAX, and becomes a constant: the network's norms are then
factors and offsets of channels, which go into the weights of the convolutions before them.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import onnx
from jax.extend.core import Literal
from onnx import helper

from ccnet_jax.common.version import __version__
from ccnet_jax.tools.exporting.onnx_rules import POINTWISE, RULES
from ccnet_jax.tools.exporting.onnx_values import OPSET, Graph, Value, onnx_type

IR_VERSION = 8  # of the files' form: that of ONNX 1.13, which brought opset 18
# Primitives that call a program: where it stands in their parameters.
CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "checkpoint": "jaxpr",
}
LARGEST_CONSTANT = 2**24  # elements of what is computed here


class Unknown(Exception):
    """The program has an operation that no rule writes; the message names it."""


def onnx_model(
    call: Callable[..., Mapping[str, jax.Array]], inputs: Mapping[str, jax.ShapeDtypeStruct]
) -> onnx.ModelProto:
    """The model of a function of named arrays, whose open sides are those of its inputs.

    Raises Unknown where there is no rule for an operation.
    """
    closed, shapes = jax.make_jaxpr(call, return_shape=True)(*inputs.values())
    sides = {
        str(side): (name, axis)
        for name, x in inputs.items()
        for axis, side in enumerate(x.shape)
        if not isinstance(side, int)
    }
    graph = Graph(sides)
    arguments = [Value(x.shape, name, x.shape) for name, x in inputs.items()]
    results = write_program(graph, closed.jaxpr, [Value.of_array(x) for x in closed.consts], arguments)
    outputs = []
    for result, name in zip(results, sorted(shapes), strict=True):  # as JAX orders dictionaries
        graph.nodes.append(helper.make_node("Identity", [graph.full(result)], [name], name=name))
        outputs.append(describe_value(name, shapes[name]))
    whole = helper.make_graph(
        used_nodes(graph.nodes, list(shapes)),
        "ccnet_jax",
        [describe_value(name, x) for name, x in inputs.items()],
        outputs,
        graph.initializers,
    )
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(whole, opset_imports=opsets, ir_version=IR_VERSION)
    model.producer_name, model.producer_version = "ccnet_jax", __version__
    return model


def describe_value(name: str, x: jax.ShapeDtypeStruct) -> onnx.ValueInfoProto:
    """An input or an output, with words for sides that are open."""
    shape = [side if isinstance(side, int) else str(side) for side in x.shape]
    return helper.make_tensor_value_info(name, onnx_type(x.dtype), shape)


def used_nodes(nodes: Sequence[onnx.NodeProto], outputs: Sequence[str]) -> list[onnx.NodeProto]:
    """The nodes that outputs need, in their order."""
    needed, kept = set(outputs), []
    for node in reversed(nodes):
        if needed & set(node.output):
            needed |= set(node.input)
            kept.append(node)
    return kept[::-1]


def write_program(
    graph: Graph, jaxpr: Any, consts: Sequence[Value], arguments: Sequence[Value]
) -> list[Value]:
    """The results of a traced program, written into the graph. Raises Unknown."""
    values = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *arguments), strict=True))

    def read(x: Any) -> Value:
        if not isinstance(x, Literal):
            return values[x]
        aval: Any = x.aval
        return Value.of_array(np.asarray(x.val, aval.dtype))

    for equation in jaxpr.eqns:
        results = one_step(graph, equation, [read(x) for x in equation.invars])
        values |= zip(equation.outvars, results, strict=True)
    return [read(x) for x in jaxpr.outvars]


def one_step(graph: Graph, equation: Any, inputs: list[Value]) -> list[Value]:
    """The results of one operation."""
    name, params = equation.primitive.name, equation.params
    if name in CALLS:
        called = params[CALLS[name]]
        jaxpr, consts = getattr(called, "jaxpr", called), getattr(called, "consts", ())
        return write_program(graph, jaxpr, [Value.of_array(x) for x in consts], inputs)
    if name == "scan":
        return unroll(graph, equation, inputs)
    if name == "optimization_barrier":
        return inputs
    avals = [x.aval for x in equation.outvars]
    left = ("broadcast_in_dim", "dim_as_value")  # to their rules: large, and open
    if name not in left and all(x.constant is not None for x in inputs):
        known = fold_constants(equation, inputs, avals)
        if known is not None:
            return known
    if name == "split":
        return split(graph, params, inputs[0], avals)
    if name not in RULES:
        raise Unknown(name)
    try:
        return [RULES[name](graph, inputs, params, avals[0])]
    except NotImplementedError as error:
        raise Unknown(str(error)) from None


def fold_constants(equation: Any, inputs: Sequence[Value], avals: Sequence[Any]) -> list[Value] | None:
    """The results of an operation whose inputs are known; None where its shape is open, or it is large."""
    sizes = [side for aval in avals for side in aval.shape]
    if not all(isinstance(side, int) for side in sizes):
        return None
    known = [(x.constant, x.shape) for x in inputs if x.constant is not None]
    if equation.primitive.name in POINTWISE:  # repeated sides stay repeated
        arrays = list(np.broadcast_arrays(*(array for array, _ in known)))
    elif max(np.prod(aval.shape, dtype=float) for aval in avals) <= LARGEST_CONSTANT:
        arrays = [np.broadcast_to(array, shape) for array, shape in known]
    else:
        return None
    found = equation.primitive.bind(*map(jax.numpy.asarray, arrays), **equation.params)
    results = found if equation.primitive.multiple_results else [found]
    return [Value.of_array(x, aval.shape) for x, aval in zip(results, avals, strict=True)]


def split(graph: Graph, params: Mapping[str, Any], x: Value, avals: Sequence[Any]) -> list[Value]:
    """Parts of an array along one axis."""
    sizes = graph.constant(np.array(params["sizes"], np.int64))
    names = graph.nodes_outputs("Split", [graph.full(x), sizes], len(avals), axis=params["axis"])
    return [Value(aval.shape, name, aval.shape) for name, aval in zip(names, avals, strict=True)]


def unroll(graph: Graph, equation: Any, inputs: list[Value]) -> list[Value]:
    """A loop of a known length without arrays to run through, one round after another. Raises Unknown."""
    jaxpr, params = equation.params["jaxpr"], equation.params
    outside = [x.aval.shape for x in (*equation.invars, *equation.outvars)]
    if outside != [x.aval.shape for x in (*jaxpr.jaxpr.invars, *jaxpr.jaxpr.outvars)]:
        raise Unknown("a loop through the parts of an array")
    step = functools.partial(write_program, graph, jaxpr.jaxpr, [Value.of_array(x) for x in jaxpr.consts])
    consts = inputs[: len(inputs) - len(equation.outvars)]
    carry = inputs[len(consts) :]
    for _ in range(params["length"]):
        carry = step([*consts, *carry])
    return carry
