"""int8 forms of ONNX models: static quantisation by QuantizeLinear / DequantizeLinear pairs around every operator.

The scheme is that of Jacob et al. (CVPR 2018): activations are uint8 with one scale and zero point per tensor, weights
int8 with one scale per output channel, biases int32. ``onnxruntime.quantization.quantize_static`` gives the same, but
through files and channel by channel: too slow for a latency table, which quantises a hundred blocks and two dozen
networks.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from search_spaces.errors import InputError

# What ONNX Runtime's CPU kernels compute on integers; any other operator stays float between two conversions.
_WEIGHTED = {"Conv", "Gemm", "MatMul"}
_ARITHMETIC = {*_WEIGHTED, "Add", "Mul", "Concat", "AveragePool", "GlobalAveragePool", "Resize"}
# They hand values on as they are, so that the output has the scale of the input.
_PASSING = {"Flatten", "MaxPool", "Reshape", "Resize", "Squeeze", "Transpose", "Unsqueeze"}
# The integers saturate where they cut off, so that they cost nothing behind an operator that computes integers.
_CLIPPING = {"Clip", "Relu"}

_Scale = tuple[NDArray[np.float32], NDArray[np.uint8]]


class NotQuantizable(InputError):
    """No operator of a model has an int8 form."""


def quantize(model: bytes, inputs: Sequence[NDArray[np.float32]]) -> bytes:
    """Return the int8 form of an ONNX model that has one input; its metadata stay.

    Args:
        model: the file's content, opset 13 or later, batch norm folded into convolutions.
        inputs: typical inputs, each of the model's own shape (N, C, H, W); an activation's range is that of the values
            that it takes on them.

    Raises:
        NotQuantizable: nothing in the model can be quantised.
    """
    proto = onnx.load_from_string(model)
    kinds = {node.op_type for node in proto.graph.node}
    if not kinds & _ARITHMETIC:
        raise NotQuantizable(f"no operator of the model has an int8 form: {', '.join(sorted(kinds))}")
    _Rewriter(proto.graph, _scales(model, inputs)).rewrite()
    return bytes(proto.SerializeToString())


def _scales(model: bytes, inputs: Sequence[NDArray[np.float32]]) -> dict[str, _Scale]:
    """Run the model on ``inputs`` and return scale and zero point of every float activation by its name."""
    proto = onnx.load_from_string(model)
    kept = {output.name for output in proto.graph.output}
    names = [name for node in proto.graph.node for name in node.output if name and name not in kept]
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found = [output.name for output in session.get_outputs()]
    (source,) = session.get_inputs()
    ranges: dict[str, tuple[float, float]] = {}
    for batch in inputs:
        values = {source.name: batch, **dict(zip(found, session.run(None, {source.name: batch}), strict=True))}
        for name, value in values.items():
            if value.dtype == np.float32:
                low, high = ranges.get(name, (0.0, 0.0))
                ranges[name] = min(low, float(value.min())), max(high, float(value.max()))
    return {name: _scale(*both) for name, both in ranges.items()}


def _scale(low: float, high: float) -> _Scale:
    """Return scale and zero point of a range that holds zero, which padding needs to be exact."""
    scale = (high - low) / 255 or 1.0
    return np.array(scale, np.float32), np.array(round(-low / scale), np.uint8)


class _Rewriter:
    """Puts conversions into a graph: behind a tensor ``x``, ``x/int8`` holds integers and ``x/float`` their values."""

    def __init__(self, graph: onnx.GraphProto, scales: dict[str, _Scale]) -> None:
        self._graph = graph
        self._scales = scales
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        self._outputs = {output.name for output in graph.output}
        self._uses = Counter(name for node in graph.node for name in node.input)
        self._clipped = {node.input[0] for node in graph.node if node.op_type in _CLIPPING}
        self._wanted: set[str] = set()  # by an operator that computes integers, or by what hands on to one
        for node in reversed(graph.node):
            if node.op_type in _ARITHMETIC or (node.op_type in _PASSING and node.output[0] in self._wanted):
                self._wanted.update(node.input)
        self._nodes: list[onnx.NodeProto] = []
        self._floats: dict[str, str] = {}
        self._unclipped: set[str] = set()

    def rewrite(self) -> None:
        """Replace the graph's nodes, and leave out the constants that are no longer used."""
        for node in self._graph.node:
            self._add(node)
        used = {name for node in self._nodes for name in node.input}
        constants = [tensor for name, tensor in self._constants.items() if name in used]
        for field, values in ((self._graph.node, self._nodes), (self._graph.initializer, constants)):
            del field[:]
            field.extend(values)

    def _add(self, source: onnx.NodeProto) -> None:
        node = onnx.NodeProto()
        node.CopyFrom(source)
        if node.op_type in _WEIGHTED:
            self._quantise_weighted(node)
        elif node.op_type in _ARITHMETIC:
            self._quantise(node.input)
        elif node.op_type in _PASSING and node.output[0] in self._wanted:
            self._quantise(node.input[:1])
        for i, name in enumerate(node.input):
            node.input[i] = self._floats.get(name, name)
        self._nodes.append(node)
        if self._on_integers(source) and source.output[0] in self._scales:
            if source.op_type in _PASSING:
                self._scales[source.output[0]] = self._scales[source.input[0]]
            self._quantise_output(node)

    def _on_integers(self, node: onnx.NodeProto) -> bool:
        """Tell whether the engine can compute the node on integers, operands being what they are by now."""
        if node.op_type in _PASSING:
            return node.input[0] in self._floats
        if node.op_type in _CLIPPING:
            return node.input[0] in self._floats or node.input[0] in self._unclipped
        return node.op_type in _ARITHMETIC

    def _quantise_output(self, node: onnx.NodeProto) -> None:
        name = node.output[0]
        if name not in self._outputs:
            if name in self._clipped and self._uses[name] == 1:
                self._unclipped.add(name)  # what follows cuts the range off: only that is quantised
            else:
                self._convert(name, name, f"{name}/float")
        elif node.op_type not in ("Gemm", "MatMul"):  # class scores in 256 steps would often tie
            node.output[0] = f"{name}/exact"
            self._convert(name, node.output[0], name)

    def _quantise(self, names: Iterable[str]) -> None:
        for name in names:
            if name in self._constants and name not in self._scales:
                values = numpy_helper.to_array(self._constants[name])
                if values.dtype == np.float32:
                    self._scales[name] = _scale(min(0.0, float(values.min())), max(0.0, float(values.max())))
            if name in self._scales and name not in self._floats:
                self._convert(name, name, f"{name}/float")

    def _quantise_weighted(self, node: onnx.NodeProto) -> None:
        """Quantise the activation, the weight per output channel, and the bias on the scale of their products."""
        if node.input[1] not in self._constants or node.input[0] not in self._scales:
            self._quantise(node.input[:2])
            return
        self._quantise(node.input[:1])
        weight = numpy_helper.to_array(self._constants[node.input[1]])
        axis = 0 if node.op_type == "Conv" or _transposed(node) else weight.ndim - 1
        others = tuple(i for i in range(weight.ndim) if i != axis)
        scale = np.abs(weight).max(others) / 127
        bias = node.input[2] if len(node.input) > 2 else ""
        source_scale = self._scales[node.input[0]][0]
        if bias in self._constants:
            values = numpy_helper.to_array(self._constants[bias])
            # A channel of tiny weights needs a coarser scale for its bias to fit into 32 bits.
            scale = np.maximum(scale, np.abs(values) / (source_scale * 2**30))
        scale[scale == 0] = 1
        integers = np.rint(weight / np.expand_dims(scale, others)).astype(np.int8)
        node.input[1] = self._stored(f"{node.output[0]}/weight", integers, scale, axis)
        if bias in self._constants:
            products = (source_scale * scale).astype(np.float32)
            integers = np.rint(values / products).astype(np.int32)
            node.input[2] = self._stored(f"{node.output[0]}/bias", integers, products, 0)

    def _convert(self, name: str, before: str, after: str) -> None:
        scale, zero = self._scales[name]
        how = [self._constant(f"{name}/scale", scale), self._constant(f"{name}/zero", zero)]
        self._nodes.append(helper.make_node("QuantizeLinear", [before, *how], [f"{name}/int8"]))
        self._nodes.append(helper.make_node("DequantizeLinear", [f"{name}/int8", *how], [after]))
        self._floats[name] = after

    def _stored(self, name: str, integers: NDArray, scale: NDArray, axis: int) -> str:
        """Keep a constant as integers; return the name of its values."""
        zeros = np.zeros(scale.shape, integers.dtype)
        parts = [self._constant(f"{name}/{i}", v) for i, v in (("int8", integers), ("scale", scale), ("zero", zeros))]
        self._nodes.append(helper.make_node("DequantizeLinear", parts, [f"{name}/float"], axis=axis))
        return f"{name}/float"

    def _constant(self, name: str, value: NDArray) -> str:
        self._constants[name] = numpy_helper.from_array(value, name)
        return name


def _transposed(node: onnx.NodeProto) -> bool:
    return any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
