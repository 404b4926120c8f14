"""How each of JAX's primitives is written in ONNX: one line, or one function, each in `RULES`.

A rule is (graph, inputs, parameters of the primitive, shape and dtype of the result) -> the result.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ccnet_jax.tools.exporting.onnx_values import Convolution, Graph, Shape, Value, onnx_type

Rule = Callable[[Graph, Sequence[Value], dict[str, Any], Any], Value]
NHWC = (0, 3, 1, 2)  # where JAX's arrays have batch, channels, rows, columns


# -------------------------------------------------------------------------------------------------- helpers
def whole_value(name: str, shape: Shape) -> Value:
    """The value of a tensor that has its whole shape."""
    return Value(tuple(shape), name, tuple(shape))


def vector(graph: Graph, numbers: Sequence[int]) -> str:
    """Whole numbers, as ONNX takes axes and sizes."""
    return graph.constant(np.array(numbers, np.int64))


def cast(graph: Graph, name: str, dtype: Any) -> str:
    """A tensor in another dtype."""
    return graph.node("Cast", name, to=onnx_type(dtype))


# ------------------------------------------------------------------------------------------------- pointwise
def pointwise(*ops: str) -> Rule:
    """A rule for what ONNX does by one node, or by several, each on the result of the one before."""

    def rule(graph: Graph, inputs: Sequence[Value], params: dict[str, Any], aval: Any) -> Value:
        name = graph.node(ops[0], *map(graph.compact, inputs))
        for op in ops[1:]:
            name = graph.node(op, name)
        return pointwise_value(name, inputs, aval)

    return rule


def pointwise_value(name: str, inputs: Sequence[Value], aval: Any) -> Value:
    """The value of a pointwise node, whose tensor may have sides of 1 that JAX has repeated."""
    actual = tuple(
        side if any(x.actual and x.actual[i] == side for x in inputs) else 1
        for i, side in enumerate(aval.shape)
    )
    return Value(aval.shape, name, actual)


def add(graph: Graph, inputs: Sequence[Value], params: dict[str, Any], aval: Any) -> Value:
    """A sum; one number a channel goes into the bias of a convolution."""
    for x, other in (inputs, inputs[::-1]):
        if (found := of_channels(x, other)) is not None:
            convolution, numbers = found
            return dataclasses.replace(x, data=convolution.shift(numbers))
    return pointwise("Add")(graph, inputs, params, aval)


def sub(graph: Graph, inputs: Sequence[Value], params: dict[str, Any], aval: Any) -> Value:
    """A difference; see `add`."""
    x, other = inputs
    if (found := of_channels(x, other)) is not None:
        convolution, numbers = found
        return dataclasses.replace(x, data=convolution.shift(-numbers))
    return pointwise("Sub")(graph, inputs, params, aval)


def mul(graph: Graph, inputs: Sequence[Value], params: dict[str, Any], aval: Any) -> Value:
    """A product; one factor a channel goes into the weights of a convolution."""
    for x, other in (inputs, inputs[::-1]):
        if (found := of_channels(x, other)) is not None:
            convolution, numbers = found
            return dataclasses.replace(x, data=convolution.scale(numbers))
    result = pointwise("Mul")(graph, inputs, params, aval)
    return dataclasses.replace(result, origin=("mul", list(inputs)))  # for `select`


def of_channels(x: Value, other: Value) -> tuple[Convolution, np.ndarray] | None:
    """A convolution, and [channels] of a constant that has one number for each of its channels; else None."""
    if not isinstance(x.data, Convolution) or other.constant is None or x.data.perm != (0, 2, 3, 1):
        return None
    if other.constant.ndim != 4 or math.prod(other.actual[:-1]) != 1:
        return None  # nor the slope of a leaky ReLU
    return x.data, np.broadcast_to(other.constant.reshape(-1), x.data.bias.shape)


def comparison_rule(op: str, name: str) -> Rule:
    """A comparison, which `select` may recognise."""

    def rule(graph: Graph, inputs: Sequence[Value], params: dict[str, Any], aval: Any) -> Value:
        found = pointwise(op)(graph, inputs, params, aval)
        return dataclasses.replace(found, origin=(name, list(inputs)))

    return rule


def select(graph: Graph, inputs: Sequence[Value], params: dict[str, Any], aval: Any) -> Value:
    """A choice between two arrays; (leaky) ReLU, which is a choice in JAX, is a node of that name."""
    which, no, yes = inputs
    if which.origin is not None and is_number(which.origin[1][1], 0):
        name, (x, _) = which.origin
        if name == "le" and no is x and is_number(yes, 0):
            return Value(aval.shape, graph.node("Relu", graph.compact(x)), x.actual)
        if name == "ge" and yes is x and no.origin is not None and no.origin[0] == "mul":
            slope = next((y.constant for y in no.origin[1] if y is not x), None)
            if slope is not None and slope.size == 1 and any(y is x for y in no.origin[1]):
                op = {"alpha": float(slope.reshape(()))}
                return Value(aval.shape, graph.node("LeakyRelu", graph.compact(x), **op), x.actual)
    if no.constant is not None and no.constant.dtype == bool:
        raise NotImplementedError("a choice between truth values")
    return pointwise_value(graph.node("Where", *map(graph.compact, (which, yes, no))), inputs, aval)


def is_number(x: Value, number: float) -> bool:
    """Whether all of an array is that number."""
    return x.constant is not None and bool((x.constant == number).all())


def maximum(graph: Graph, inputs: Sequence[Value], params: dict[str, Any], aval: Any) -> Value:
    """The larger of two; of an array and 0 it is a ReLU."""
    for x, other in (inputs, inputs[::-1]):
        if is_number(other, 0) and aval.dtype == np.float32 and x.actual == x.shape == aval.shape:
            return whole_value(graph.node("Relu", graph.compact(x)), aval.shape)
    return pointwise("Max")(graph, inputs, params, aval)


def is_finite(graph: Graph, inputs: Sequence[Value], params: dict[str, Any], aval: Any) -> Value:
    """Neither NaN nor infinite."""
    x = graph.compact(inputs[0])
    neither = graph.node("Not", graph.node("Or", graph.node("IsNaN", x), graph.node("IsInf", x)))
    return pointwise_value(neither, inputs, aval)


def power(graph: Graph, inputs: Sequence[Value], params: dict[str, Any], aval: Any) -> Value:
    """A whole power."""
    exponent = graph.constant(np.array(params.get("y", 2), np.float32))
    return pointwise_value(graph.node("Pow", graph.compact(inputs[0]), exponent), inputs, aval)


def clamp(graph: Graph, inputs: Sequence[Value], params: dict[str, Any], aval: Any) -> Value:
    """Between a lowest and a highest value."""
    low, x, high = map(graph.compact, inputs)
    return pointwise_value(graph.node("Min", graph.node("Max", x, low), high), inputs, aval)


def convert(graph: Graph, inputs: Sequence[Value], params: dict[str, Any], aval: Any) -> Value:
    """Another dtype."""
    return pointwise_value(cast(graph, graph.compact(inputs[0]), params["new_dtype"]), inputs, aval)


def same(graph: Graph, inputs: Sequence[Value], params: dict[str, Any], aval: Any) -> Value:
    """What matters to JAX or to XLA alone."""
    return inputs[0]


# ---------------------------------------------------------------------------------------------------- shapes
def broadcast(graph: Graph, inputs: Sequence[Value], params: dict[str, Any], aval: Any) -> Value:
    """Repeats nothing yet: new axes are sides of 1."""
    x, places = inputs[0], params["broadcast_dimensions"]
    actual = [1] * len(aval.shape)
    for side, place in zip(x.actual, places, strict=True):
        actual[place] = side
    if x.constant is not None:
        return Value(aval.shape, x.constant.reshape(actual), tuple(actual))
    if len(places) == len(actual):
        return Value(aval.shape, x.data, tuple(actual))
    new = [i for i in range(len(actual)) if i not in places]
    return Value(aval.shape, graph.node("Unsqueeze", graph.compact(x), vector(graph, new)), tuple(actual))


def reshape(graph: Graph, inputs: Sequence[Value], params: dict[str, Any], aval: Any) -> Value:
    """Another shape with as many elements."""
    return whole_value(graph.node("Reshape", graph.full(inputs[0]), graph.shape(aval.shape)), aval.shape)


def squeeze(graph: Graph, inputs: Sequence[Value], params: dict[str, Any], aval: Any) -> Value:
    """Without some sides of 1."""
    name = graph.node("Squeeze", graph.full(inputs[0]), vector(graph, params["dimensions"]))
    return whole_value(name, aval.shape)


def transpose(graph: Graph, inputs: Sequence[Value], params: dict[str, Any], aval: Any) -> Value:
    """Axes in another order."""
    x, perm = inputs[0], params["permutation"]
    name = graph.node("Transpose", graph.compact(x), perm=list(perm))
    return Value(aval.shape, name, tuple(x.actual[i] for i in perm))


def concatenate(graph: Graph, inputs: Sequence[Value], params: dict[str, Any], aval: Any) -> Value:
    """Arrays one after the other."""
    return whole_value(graph.node("Concat", *map(graph.full, inputs), axis=params["dimension"]), aval.shape)


def slice_(graph: Graph, inputs: Sequence[Value], params: dict[str, Any], aval: Any) -> Value:
    """Every n-th element from one place to another."""
    starts, ends = graph.shape(params["start_indices"]), graph.shape(params["limit_indices"])
    axes = range(len(aval.shape))
    steps = params["strides"] or [1] * len(axes)
    arguments = (starts, ends, vector(graph, axes), vector(graph, steps))
    return whole_value(graph.node("Slice", graph.full(inputs[0]), *arguments), aval.shape)


def reverse(graph: Graph, inputs: Sequence[Value], params: dict[str, Any], aval: Any) -> Value:
    """The other way round."""
    axes = params["dimensions"]
    starts, ends = [-1] * len(axes), [np.iinfo(np.int64).min] * len(axes)
    arguments = (vector(graph, numbers) for numbers in (starts, ends, axes, starts))
    return whole_value(graph.node("Slice", graph.full(inputs[0]), *arguments), aval.shape)


def pad(graph: Graph, inputs: Sequence[Value], params: dict[str, Any], aval: Any) -> Value:
    """A constant around an array."""
    low, high, between = zip(*params["padding_config"], strict=True)
    if any(between) or not all(isinstance(n, int | np.integer) and n >= 0 for n in low + high):
        raise NotImplementedError("padding between elements, or less than none")
    x, value = graph.full(inputs[0]), graph.full(inputs[1])
    return whole_value(graph.node("Pad", x, vector(graph, low + high), value), aval.shape)


def iota(graph: Graph, inputs: Sequence[Value], params: dict[str, Any], aval: Any) -> Value:
    """0, 1, 2 and so on along one axis."""
    axis, shape = params["dimension"], aval.shape
    zero, one = (graph.constant(np.array(n, np.int64)) for n in (0, 1))
    end = graph.node("Squeeze", graph.side(shape[axis]), vector(graph, [0]))
    numbers = cast(graph, graph.node("Range", zero, end, one), params["dtype"])
    if others := [i for i in range(len(shape)) if i != axis]:
        numbers = graph.node("Unsqueeze", numbers, vector(graph, others))
    return Value(shape, numbers, tuple(side if i == axis else 1 for i, side in enumerate(shape)))


def side(graph: Graph, inputs: Sequence[Value], params: dict[str, Any], aval: Any) -> Value:
    """A side of the images, or a number that follows from it."""
    number = graph.node("Squeeze", graph.side(params["dim"]), vector(graph, [0]))
    return whole_value(cast(graph, number, aval.dtype), aval.shape)


# ------------------------------------------------------------------------------------------------- reductions
def reduction(op: str) -> Rule:
    """A rule for a sum, a maximum and the like over some axes."""

    def rule(graph: Graph, inputs: Sequence[Value], params: dict[str, Any], aval: Any) -> Value:
        axes = vector(graph, params["axes"])
        return whole_value(graph.node(op, graph.full(inputs[0]), axes, keepdims=0), aval.shape)

    return rule


def argmax(graph: Graph, inputs: Sequence[Value], params: dict[str, Any], aval: Any) -> Value:
    """The index of the first largest element."""
    (axis,) = params["axes"]
    found = graph.node("ArgMax", graph.full(inputs[0]), axis=axis, keepdims=0)
    return whole_value(cast(graph, found, aval.dtype), aval.shape)


def max_pool(graph: Graph, inputs: Sequence[Value], params: dict[str, Any], aval: Any) -> Value:
    """The largest of each window of rows and columns, with padding as JAX has it."""
    windows, strides, padding = (params[x] for x in ("window_dimensions", "window_strides", "padding"))
    dilations = [*params["base_dilation"], *params["window_dilation"]]
    if len(windows) != 4 or {windows[0], windows[3], *dilations} != {1} or any((*padding[0], *padding[3])):
        raise NotImplementedError("max pooling over other axes than rows and columns")
    x = graph.node("Transpose", graph.full(inputs[0]), perm=NHWC)
    (top, bottom), (left, right) = padding[1:3]
    settings = {"kernel_shape": windows[1:3], "strides": strides[1:3], "pads": (top, left, bottom, right)}
    pooled = graph.node("MaxPool", x, **settings)
    return whole_value(graph.node("Transpose", pooled, perm=(0, 2, 3, 1)), aval.shape)


# --------------------------------------------------------------------------------------------------- products
def convolution(graph: Graph, inputs: Sequence[Value], params: dict[str, Any], aval: Any) -> Value:
    """A convolution, which waits for what may go into its weights."""
    x, kernel = inputs
    numbers = params["dimension_numbers"]
    if kernel.constant is None or {*params["lhs_dilation"], params["batch_group_count"]} != {1}:
        raise NotImplementedError("a convolution with a computed kernel, or a transposed one")
    weights = np.ascontiguousarray(np.broadcast_to(kernel.constant, kernel.shape).transpose(numbers.rhs_spec))
    (top, bottom), (left, right) = params["padding"]
    attributes = {
        "dilations": params["rhs_dilation"],
        "group": params["feature_group_count"],
        "kernel_shape": weights.shape[2:],
        "pads": (top, left, bottom, right),
        "strides": params["window_strides"],
    }
    transposed = graph.node("Transpose", graph.full(x), perm=numbers.lhs_spec)
    perm = tuple(int(i) for i in np.argsort(numbers.out_spec))
    bias = np.zeros(len(weights), weights.dtype)
    return Value(aval.shape, Convolution(transposed, weights, bias, attributes, perm), aval.shape)


def product(graph: Graph, inputs: Sequence[Value], params: dict[str, Any], aval: Any) -> Value:
    """A product of two arrays, summed over the axes of either that are contracted."""
    (summed_a, summed_b), (batch_a, batch_b) = params["dimension_numbers"]
    a, b = inputs
    free_a = [i for i in range(len(a.shape)) if i not in (*summed_a, *batch_a)]
    free_b = [i for i in range(len(b.shape)) if i not in (*summed_b, *batch_b)]
    one = len(summed_a) == len(free_b) == 1
    if one and (len(free_a) == 1 or not batch_a):  # [..., n, k] times [..., k, m]
        left = transpose_to(graph, a, [*batch_a, *free_a, *summed_a])
        right = transpose_to(graph, b, [*batch_b, *summed_b, *free_b])
        return whole_value(graph.node("MatMul", left, right), aval.shape)
    letters = iter("abcdefghijklmnopqrstuvwxyz")
    of_a = {i: next(letters) for i in range(len(a.shape))}
    of_b = {j: of_a[i] for i, j in zip((*summed_a, *batch_a), (*summed_b, *batch_b), strict=True)}
    of_b |= {j: next(letters) for j in free_b}
    result = [of_a[i] for i in (*batch_a, *free_a)] + [of_b[j] for j in free_b]
    words = ["".join(of[i] for i in sorted(of)) for of in (of_a, of_b)]
    equation = f"{','.join(words)}->{''.join(result)}"
    return whole_value(graph.node("Einsum", graph.full(a), graph.full(b), equation=equation), aval.shape)


def transpose_to(graph: Graph, x: Value, axes: list[int]) -> str:
    """A value's tensor with its axes in that order."""
    if x.constant is not None:
        return graph.constant(np.broadcast_to(x.constant, x.shape).transpose(axes))
    name = graph.full(x)
    return name if axes == sorted(axes) else graph.node("Transpose", name, perm=axes)


RULES: dict[str, Rule] = {
    "abs": pointwise("Abs"),
    "add": add,
    "add_any": add,
    "and": pointwise("And"),
    "argmax": argmax,
    "broadcast_in_dim": broadcast,
    "clamp": clamp,
    "concatenate": concatenate,
    "conv_general_dilated": convolution,
    "convert_element_type": convert,
    "copy": same,
    "dim_as_value": side,
    "div": pointwise("Div"),
    "dot_general": product,
    "eq": pointwise("Equal"),
    "exp": pointwise("Exp"),
    "expand_dims": reshape,
    "floor": pointwise("Floor"),
    "ge": comparison_rule("GreaterOrEqual", "ge"),
    "gt": comparison_rule("Greater", "gt"),
    "integer_pow": power,
    "iota": iota,
    "is_finite": is_finite,
    "le": comparison_rule("LessOrEqual", "le"),
    "log": pointwise("Log"),
    "logistic": pointwise("Sigmoid"),
    "lt": comparison_rule("Less", "lt"),
    "max": maximum,
    "min": pointwise("Min"),
    "mul": mul,
    "name": same,
    "ne": pointwise("Equal", "Not"),
    "neg": pointwise("Neg"),
    "not": pointwise("Not"),
    "optimization_barrier": same,
    "or": pointwise("Or"),
    "pad": pad,
    "reduce_max": reduction("ReduceMax"),
    "reduce_min": reduction("ReduceMin"),
    "reduce_sum": reduction("ReduceSum"),
    "reduce_window_max": max_pool,
    "reshape": reshape,
    "rev": reverse,
    "rsqrt": pointwise("Sqrt", "Reciprocal"),
    "select_n": select,
    "slice": slice_,
    "sqrt": pointwise("Sqrt"),
    "square": power,
    "squeeze": squeeze,
    "stop_gradient": same,
    "sub": sub,
    "tanh": pointwise("Tanh"),
    "transpose": transpose,
}
POINTWISE = {
    *(
        "abs",
        "add",
        "add_any",
        "and",
        "clamp",
        "convert_element_type",
        "div",
        "eq",
        "exp",
        "floor",
        "ge",
        "gt",
    ),
    *(
        "integer_pow",
        "is_finite",
        "le",
        "log",
        "logistic",
        "lt",
        "max",
        "min",
        "mul",
        "ne",
        "neg",
        "not",
        "or",
    ),
    *("rsqrt", "select_n", "sqrt", "square", "sub", "tanh"),
}
