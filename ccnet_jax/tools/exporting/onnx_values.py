"""An ONNX graph while it is built, and the values that flow through it.

A value is a NumPy array while it is known, and then the name of a tensor. It may have a side of 1 where JAX
has repeated an array along that axis: ONNX repeats by itself, and a repeated constant would make the file
large.
"""

import ast
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 18  # the first in which all reductions take their axes in one way
Dim = Any  # an int, or JAX's expression of the names of open sides
Shape = tuple[Dim, ...]


@dataclasses.dataclass(frozen=True)
class Convolution:
    """A convolution that is not a node yet, so that what follows it can go into its weights.

    Attributes:
      x: name of the input, [B, C, H, W].
      kernel: [channels, C / groups, h, w].
      bias: [channels].
      attributes: of the node.
      perm: how the result's axes are ordered in JAX.
    """

    x: str
    kernel: np.ndarray
    bias: np.ndarray
    attributes: Mapping[str, Any]
    perm: tuple[int, ...]

    def scale(self, factor: np.ndarray) -> "Convolution":
        """Times one factor a channel."""
        kernel, bias = self.kernel * factor[:, None, None, None], self.bias * factor
        return dataclasses.replace(self, kernel=kernel, bias=bias)

    def shift(self, offset: np.ndarray) -> "Convolution":
        """Plus one number a channel."""
        return dataclasses.replace(self, bias=self.bias + offset)


@dataclasses.dataclass(frozen=True)
class Value:
    """An array of the program.

    Attributes:
      shape: in JAX.
      data: the array itself, the name of a tensor, or a convolution whose result it is.
      actual: shape of the data, with 1 where `shape` has a side along which it is repeated.
      origin: (primitive, inputs) where a later rule may want to see it.
    """

    shape: Shape
    data: np.ndarray | str | Convolution
    actual: Shape
    origin: tuple[str, "list[Value]"] | None = None

    @classmethod
    def of_array(cls, array: Any, shape: Shape | None = None) -> "Value":
        """An array that does not depend on the images; `shape` where it is repeated."""
        array = np.asarray(array)
        return cls(array.shape if shape is None else shape, array, array.shape)

    @property
    def constant(self) -> np.ndarray | None:
        """The array, if it is known."""
        return self.data if isinstance(self.data, np.ndarray) else None


class Graph:
    """Nodes, constants and the open sides of an ONNX graph.

    Args:
      sides: {name of an open side: (input, axis)}.
    """

    def __init__(self, sides: Mapping[str, tuple[str, int]]):
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._sides = sides
        self._names: dict[Any, str] = {}
        self._emitted: dict[int, tuple[Convolution, str]] = {}

    def node(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Add a node; the name of its output."""
        return self.nodes_outputs(op, inputs, 1, **attributes)[0]

    def nodes_outputs(self, op: str, inputs: Sequence[str], count: int, **attributes: Any) -> list[str]:
        """Add a node with several outputs; their names."""
        outputs = [f"{op.lower()}_{len(self.nodes)}_{i}" for i in range(count)]
        self.nodes.append(helper.make_node(op, list(inputs), outputs, name=outputs[0], **attributes))
        return outputs

    def constant(self, array: Any) -> str:
        """The name of a constant; equal ones are one."""
        array = np.ascontiguousarray(array).reshape(np.shape(array))
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._names:
            self._names[key] = f"constant_{len(self.initializers)}"
            self.initializers.append(numpy_helper.from_array(array, self._names[key]))
        return self._names[key]

    def compact(self, value: Value) -> str:
        """The tensor of a value, with sides of 1 where it is repeated."""
        if isinstance(value.data, np.ndarray):
            return self.constant(value.data)
        return self._add_convolution(value.data) if isinstance(value.data, Convolution) else value.data

    def full(self, value: Value) -> str:
        """The tensor of a value in its whole shape."""
        name = self.compact(value)
        return name if value.actual == value.shape else self.node("Expand", name, self.shape(value.shape))

    def _add_convolution(self, x: Convolution) -> str:
        if id(x) not in self._emitted:
            inputs = (x.x, self.constant(x.kernel), self.constant(x.bias))
            result = self.node("Conv", *inputs, **x.attributes)
            self._emitted[id(x)] = x, self.node("Transpose", result, perm=x.perm)
        return self._emitted[id(x)][1]

    # ------------------------------------------------------------------ sizes
    def shape(self, shape: Shape) -> str:
        """The name of an int64 vector with these sides."""
        if all(isinstance(side, int) for side in shape):
            return self.constant(np.array(shape, np.int64))
        return self.node("Concat", *(self.side(side) for side in shape), axis=0)

    def side(self, side: Dim) -> str:
        """The name of an int64 vector with one side."""
        if isinstance(side, int):
            return self.constant(np.array([side], np.int64))
        key = ("side", str(side))  # in the words that `jax.export.symbolic_shape` reads
        if key not in self._names:
            self._names[key] = self._add_operation(ast.parse(str(side), mode="eval").body)
        return self._names[key]

    def _add_operation(self, tree: ast.expr) -> str:
        match tree:
            case ast.Constant(value=int(number)):
                return self.side(number)
            case ast.Name(id=name):
                return self._open_side(name)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return self.node("Neg", self._add_operation(operand))
            case ast.BinOp(left=left, op=op, right=right):
                ops = {ast.Add: "Add", ast.Sub: "Sub", ast.Mult: "Mul"}
                return self.node(ops[type(op)], self._add_operation(left), self._add_operation(right))
            case ast.Call(func=ast.Name(id=name), args=[left, right]):
                a, b = self._add_operation(left), self._add_operation(right)
                if name in ("max", "min"):
                    return self.node(name.capitalize(), a, b)
                rest = self.node("Mod", a, b)  # of the sign of b, as Python's
                return rest if name == "mod" else self.node("Div", self.node("Sub", a, rest), b)
        raise ValueError(f"a side of {ast.unparse(tree)}")

    def _open_side(self, name: str) -> str:
        if ("open", name) not in self._names:
            of, axis = self._sides[name]
            index = self.constant(np.array([axis], np.int64))
            self._names["open", name] = self.node("Gather", self.node("Shape", of), index, axis=0)
        return self._names["open", name]


def onnx_type(dtype: Any) -> int:
    """ONNX's number of a dtype."""
    return helper.np_dtype_to_tensor_dtype(np.dtype(dtype))


__all__ = ["OPSET", "Convolution", "Dim", "Graph", "Shape", "TensorProto", "Value", "onnx_type"]
