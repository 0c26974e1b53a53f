"""Writes an ONNX graph as if it were NumPy: `Value`s with operators, constants made on the way.

For graphs whose sizes depend on values that come in (the nodes of a grid depend on the spacing), which a traced
module cannot hold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

OPSET = 18
IR_VERSION = 10

#: What a node takes: an edge, or a constant. A bare number is float32 or int64 after its own type.
Operand: TypeAlias = "Value | float | np.generic | npt.NDArray[Any]"


@dataclass(frozen=True, eq=False)
class Value:
    """An edge of the graph; arithmetic adds nodes."""

    graph: Graph
    name: str

    def __add__(self, other: Operand) -> Value:
        return self.graph.add("Add", self, other)

    def __sub__(self, other: Operand) -> Value:
        return self.graph.add("Sub", self, other)

    def __rsub__(self, other: Operand) -> Value:
        return self.graph.add("Sub", other, self)

    def __mul__(self, other: Operand) -> Value:
        return self.graph.add("Mul", self, other)

    def __truediv__(self, other: Operand) -> Value:
        return self.graph.add("Div", self, other)

    def __matmul__(self, other: Value) -> Value:
        return self.graph.add("MatMul", self, other)

    def __rtruediv__(self, other: Operand) -> Value:
        return self.graph.add("Div", other, self)

    def to(self, dtype: type[np.generic]) -> Value:
        """Cast."""
        return self.graph.add("Cast", self, to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def reshape(self, *sizes: Value | int) -> Value:
        """Reshape to sizes known now or only when it runs."""
        return self.graph.add("Reshape", self, self.graph.shape(*sizes))

    def flat(self) -> Value:
        """One axis."""
        return self.graph.add("Reshape", self, np.array([-1]))

    def at(self, index: Value | int, axis: int = 0) -> Value:
        """Gather along an axis."""
        return self.graph.add("Gather", self, index, axis=axis)

    def each(self, index: Value) -> Value:
        """Of a flat array, the numbers at these places: what `at` gives, several times faster on a CPU."""
        return self.graph.add("GatherElements", self, index, axis=0)

    @property
    def transposed(self) -> Value:
        """Of a matrix."""
        return self.graph.add("Transpose", self, perm=[1, 0])


class Graph:
    """Collects nodes, constants, inputs and outputs.

    prefix: of all names, for nodes that are to be put into another graph.
    """

    def __init__(self, prefix: str = "") -> None:
        self._prefix = prefix
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[tuple[str, tuple[int, ...], bytes], onnx.TensorProto] = {}
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []

    def input(self, name: str, dtype: type[np.generic], shape: Sequence[str | int]) -> Value:
        """An input of the graph."""
        self._inputs.append(_described(name, dtype, shape))
        return Value(self, name)

    def output(self, name: str, value: Value, dtype: type[np.generic], shape: Sequence[str | int]) -> None:
        """An output of the graph."""
        self._outputs.append(_described(name, dtype, shape))
        self._nodes.append(helper.make_node("Identity", [value.name], [name]))

    def add(self, operator: str, *operands: Operand, **attributes: Any) -> Value:  # noqa: ANN401 - whatever ONNX defines for the operator
        """One node; its only output."""
        name = f"{self._prefix}{operator.lower()}_{len(self._nodes)}"
        inputs = [self._name_of(operand) for operand in operands]
        self._nodes.append(helper.make_node(operator, inputs, [name], **attributes))
        return Value(self, name)

    def shape(self, *sizes: Value | int) -> Value:
        """int64 vector of scalars."""
        parts = [
            self.add("Reshape", size, np.array([1])) if isinstance(size, Value) else np.array([size]) for size in sizes
        ]
        return self.add("Concat", *parts, axis=0)

    def counting(self, count: Value) -> Value:
        """0, 1, … count - 1 as int64."""
        return self.add("Range", 0, count, 1)

    def zeros(self, count: Value) -> Value:
        """So many, float32."""
        zero = helper.make_tensor("zero", onnx.TensorProto.FLOAT, [1], [0.0])
        return self.add("ConstantOfShape", self.shape(count), value=zero)

    def slice(self, value: Value, first: Value | int, last: Value | int) -> Value:
        """From first to last (exclusive) along the first axis; beyond the end there is nothing."""
        return self.add("Slice", value, self.shape(first), self.shape(last), np.array([0]))

    def model(self, metadata: Mapping[str, str]) -> onnx.ModelProto:
        """The finished, checked model with its card."""
        graph = helper.make_graph(self._nodes, "hepaseg", self._inputs, self._outputs, list(self._constants.values()))
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="hepaseg",
        )
        helper.set_model_props(model, dict(metadata))
        onnx.checker.check_model(model, full_check=True)
        return model

    @property
    def nodes(self) -> list[onnx.NodeProto]:
        """What was written so far, for a graph that is to be put into another."""
        return self._nodes

    @property
    def constants(self) -> list[onnx.TensorProto]:
        """The constants of `nodes`."""
        return list(self._constants.values())

    def _name_of(self, operand: Operand) -> str:
        if isinstance(operand, Value):
            return operand.name
        array = np.asarray(operand)
        if array.dtype == np.float64:
            array = array.astype(np.float32)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = numpy_helper.from_array(array, f"{self._prefix}constant_{len(self._constants)}")
        return self._constants[key].name


def _described(name: str, dtype: type[np.generic], shape: Sequence[str | int]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), list(shape))
