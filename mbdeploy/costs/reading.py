"""From an ONNX model to a Graph: order, one batch size, shapes node by node, constants folded, Q/DQ seen through."""

from __future__ import annotations

from collections import Counter
from typing import Any

import onnx
import onnx.defs
import onnx.shape_inference
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from mbdeploy.costs.axes import fill_axes, fill_batch, is_known, is_small, measure
from mbdeploy.costs.folding import fold_node, read_attributes
from mbdeploy.costs.graph import QUANTIZERS, Graph, Node, qualify
from mbdeploy.costs.ordering import order_nodes, outer_names
from mbdeploy.costs.report import Shape

_EIGHT_BITS = (TensorProto.INT8, TensorProto.UINT8)
_RANDOM = ("RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial")


def read_graph(light: onnx.ModelProto, input_shape: Shape | None = None) -> Graph:
    """The executed graph of a model that ``lighten`` made, with shapes for a batch of 1 if the batch is dynamic.

    Rules: 1. ``input_shape`` (C, H, W) fills in the other dynamic axes of the image. 2. A node whose inputs
    are all constant is folded, and so is one that reads sizes alone. 3. Shapes come from ONNX's own
    inference, then from what the file declares, else they are unknown. 4. A tensor, its Q and its DQ are
    one tensor.

    Raises:
        ModelError: nodes in a circle, or an axis that is dynamic and that nobody fills in.
    """
    return _Reader(light, input_shape).read()


class _Reader:
    def __init__(self, model: onnx.ModelProto, input_shape: Shape | None) -> None:
        self.graph = model.graph
        self.versions = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
        self.opsets = list(model.opset_import)
        self.types: dict[str, onnx.TypeProto] = {}
        self.tensors: dict[str, onnx.TensorProto] = {}
        self.values: dict[str, Any] = {}
        self.constants: dict[str, str] = {}
        self.problems: dict[str, str] = {}
        self.alias: dict[str, str] = {}
        self.quantized: set[str] = set()
        self.names: Counter[str] = Counter(node.name for node in model.graph.node)
        self.quantizers = 0
        self._take_initializers()
        self.inputs = tuple(value.name for value in self.graph.input if value.name not in self.constants)
        self.batch_names = self._take_inputs(input_shape)
        self.declared = {
            value.name: fill_batch(value.type, self.batch_names)
            for value in (*self.graph.value_info, *self.graph.output)
        }

    def read(self) -> Graph:
        ordered = order_nodes(self.graph)
        executed = []
        for index, node in enumerate(ordered):
            name = node.name if node.name and self.names[node.name] == 1 else f"{node.op_type}#{index}"
            if kept := self._visit(node, name):
                executed.append(kept)
        return self._close(executed, len(ordered))

    def _take_initializers(self) -> None:
        for tensor in self.graph.initializer:
            self.constants[tensor.name] = tensor.name
            self.types[tensor.name] = helper.make_tensor_type_proto(tensor.data_type, list(tensor.dims))
            if is_small(tensor):
                self._take_value(tensor.name, tensor)

    def _take_value(self, name: str, tensor: onnx.TensorProto) -> None:
        try:
            self.values[name] = numpy_helper.to_array(tensor)
        except (ValueError, TypeError):
            return  # the file lies about its size: then it is a constant of unknown value
        self.tensors[name] = tensor

    def _take_inputs(self, input_shape: Shape | None) -> set[str]:
        batch_names = set()
        for value in self.graph.input:
            if value.name in self.constants:
                continue
            kind = value.type.tensor_type
            axes = kind.shape.dim
            if not value.type.HasField("tensor_type") or not kind.HasField("shape"):
                continue
            if axes and not axes[0].HasField("dim_value") and axes[0].dim_param:
                batch_names.add(axes[0].dim_param)
            shape = [axis.dim_value if axis.HasField("dim_value") else None for axis in axes]
            filled = fill_axes(shape, input_shape, value.name)
            self.types[value.name] = helper.make_tensor_type_proto(kind.elem_type, filled)
        return batch_names

    def _visit(self, node: onnx.NodeProto, name: str) -> Node | None:
        """Take in one node; the Node if it is executed, None if it is folded or seen through."""
        captured = sorted(outer_names(node) & (self.types.keys() | self.alias.keys()))
        inputs = [*node.input, *captured]
        attributes = read_attributes(node)
        if node.op_type in QUANTIZERS and node.input:
            if self._see_through(node):
                return None
        elif self._fold(node, attributes):
            return None
        else:
            self._infer(node, name)
            is_constant = all(tensor in self.constants or not tensor for tensor in inputs)
            if is_constant and inputs and node.op_type not in _RANDOM:
                for output in node.output:
                    self.constants[output] = self.constants.get(node.input[0], output)  # 2.
                return None
        return Node(
            name=name,
            operator=qualify(node.op_type, node.domain),
            inputs=tuple(self.alias.get(tensor, tensor) for tensor in inputs),
            outputs=tuple(tensor for tensor in node.output if tensor),
            attributes=attributes,
        )

    def _see_through(self, node: onnx.NodeProto) -> bool:
        source, output = node.input[0], node.output[0]
        self.quantizers += 1
        root = self.alias.get(source, source)
        if source in self.types:
            kind = self.types[source].tensor_type
            zero = self.types.get(node.input[2]) if len(node.input) > 2 and node.input[2] else None
            to_float = node.op_type == "DequantizeLinear"
            elem = TensorProto.FLOAT if to_float else zero.tensor_type.elem_type if zero else TensorProto.UINT8
            shape = [axis.dim_value for axis in kind.shape.dim]
            self.types[output] = helper.make_tensor_type_proto(elem, shape)
        if source in self.constants:
            self.constants[output] = self.constants[source]
            return True
        self.alias[output] = root  # 4.
        self.quantized.add(root)
        return True

    def _fold(self, node: onnx.NodeProto, attributes: dict[str, Any]) -> bool:
        if node.op_type in ("Shape", "Size") and node.input[0] in self.types:
            value: NDArray[Any] | None = measure(self.types[node.input[0]], node.op_type, attributes)
        elif len(node.output) == 1 and all(tensor in self.values or not tensor for tensor in node.input):
            value = fold_node(node.op_type, attributes, [self.values.get(tensor) for tensor in node.input])
        else:
            return False
        if value is None:
            if node.op_type != "Constant":
                return False
            tensor = attributes.get("value")  # a weight that was written as a node
            shape = list(tensor.dims) if isinstance(tensor, onnx.TensorProto) else None
            elem = tensor.data_type if isinstance(tensor, onnx.TensorProto) else TensorProto.UNDEFINED
            if shape is not None:
                self.types[node.output[0]] = helper.make_tensor_type_proto(elem, shape)
        else:
            self._take_value(node.output[0], numpy_helper.from_array(value))
            tensor = self.tensors[node.output[0]]
            self.types[node.output[0]] = helper.make_tensor_type_proto(tensor.data_type, list(tensor.dims))
        self.constants[node.output[0]] = node.output[0]
        return True

    def _infer(self, node: onnx.NodeProto, name: str) -> None:
        present = [tensor for tensor in node.input if tensor]
        inferred: dict[str, onnx.TypeProto] = {}
        if all(tensor in self.types for tensor in present):
            try:
                version = self.versions[node.domain or "ai.onnx"]
                schema = onnx.defs.get_schema(node.op_type, version, "" if node.domain == "ai.onnx" else node.domain)
                inferred = onnx.shape_inference.infer_node_outputs(
                    schema,
                    node,
                    {tensor: self.types[tensor] for tensor in present},
                    {tensor: self.tensors[tensor] for tensor in present if tensor in self.tensors},
                    opset_imports=self.opsets,
                )
            except (onnx.defs.SchemaError, KeyError):
                self.problems[name] = "ONNX has no such operator"
            except onnx.shape_inference.InferenceError as error:
                self.problems[name] = str(error).strip().splitlines()[0]
        for output in node.output:
            found = next((kind for kind in (inferred.get(output), self.declared.get(output)) if is_known(kind)), None)
            if found is not None:
                self.types[output] = found  # 3.

    def _close(self, executed: list[Node], nodes: int) -> Graph:
        shapes = {
            name: tuple(axis.dim_value for axis in kind.tensor_type.shape.dim) for name, kind in self.types.items()
        }
        dtypes = {name: kind.tensor_type.elem_type for name, kind in self.types.items()}
        made_8_bit = {tensor for node in executed for tensor in node.outputs if dtypes.get(tensor) in _EIGHT_BITS}
        consumers: dict[str, list[Node]] = {}
        for node in executed:
            for tensor in dict.fromkeys(node.inputs):
                consumers.setdefault(tensor, []).append(node)
        return Graph(
            nodes=tuple(executed),
            shapes=shapes,
            dtypes=dtypes,
            values=self.values,
            constants=self.constants,
            inputs=self.inputs,
            outputs=tuple(self.alias.get(value.name, value.name) for value in self.graph.output),
            quantized=frozenset(self.quantized | made_8_bit),
            problems=self.problems,
            producers={tensor: node for node in executed for tensor in node.outputs},
            consumers={tensor: tuple(readers) for tensor, readers in consumers.items()},
            folded=nodes - len(executed) - self.quantizers,
            quantizers=self.quantizers,
        )
