"""Torch module to ONNX in milliseconds: one concrete forward pass is recorded and written down.

``torch.onnx.export`` takes up to seconds per block; a latency table has a hundred. The pass runs under a
``TorchFunctionMode``: calls on traced tensors become ONNX nodes, everything else is a constant. Whatever
the recorder does not know raises ``UnsupportedOperation`` and nothing is guessed; ``disagreement`` compares
the result with PyTorch before it is trusted.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from search_spaces.block import Shape

OPSET = 20
IR_VERSION = 10


class UnsupportedOperation(Exception):
    """The recorder has no ONNX form for an operation of the module."""


# What a module may ask of a traced tensor: the answer does not depend on the values in it.
_QUERIES = {
    Tensor.size,
    Tensor.dim,
    Tensor.numel,
    *(getattr(Tensor, name).__get__ for name in ("shape", "ndim", "dtype", "device")),
}


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple | dict):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _tensors(part)


class _Recorder(TorchFunctionMode):
    """Records the calls on tensors that descend from the input as ONNX nodes."""

    def __init__(self, image: Tensor) -> None:
        super().__init__()
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}
        self._names: dict[int, str] = {id(image): "input"}
        self._alive: list[Tensor] = [image]  # ids stay unique as long as the tensors live

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        traced = any(id(tensor) in self._names for tensor in _tensors([args, kwargs]))
        if not traced or func in _QUERIES:
            return result
        handler = _HANDLERS.get(func)
        if handler is None:
            raise UnsupportedOperation(getattr(func, "__name__", str(func)))
        self._names[id(result)] = handler(self, result, *args, **kwargs)
        self._alive.append(result)
        return result

    def name(self, tensor: Tensor) -> str:
        """Return the ONNX name of a traced tensor, or store the tensor as a constant."""
        if id(tensor) not in self._names:
            self._names[id(tensor)] = self.constant(tensor.detach().numpy())
            self._alive.append(tensor)
        if not self._names[id(tensor)]:
            raise UnsupportedOperation("a convolution whose output is used with and without batch norm")
        return self._names[id(tensor)]

    def traced(self, tensor: Tensor | None) -> bool:
        """Tell whether the tensor descends from the input or is stored already."""
        return id(tensor) in self._names

    def folded(self, tensor: Tensor) -> None:
        """Note that the node of ``tensor`` now computes something else."""
        self._names[id(tensor)] = ""

    def constant(self, value: np.ndarray) -> str:
        name = f"const{len(self.constants)}"
        self.constants[name] = np.ascontiguousarray(value)
        return name

    def node(self, operator: str, inputs: list[str], **attributes: Any) -> str:
        output = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def producer(self, name: str) -> onnx.NodeProto | None:
        return next((node for node in self.nodes if name in node.output), None)


def _conv2d(
    r: _Recorder, out: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None = None,
    stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1,
) -> str:  # fmt: skip
    if isinstance(padding, str) or r.traced(weight) or r.traced(bias):
        raise UnsupportedOperation("conv2d with padding by name or with weights that depend on the input")
    kernel = list(weight.shape[2:])
    pair = [list(v) if isinstance(v, tuple | list) else [v, v] for v in (stride, padding, dilation)]
    bias_value = np.zeros(weight.shape[0], np.float32) if bias is None else bias.detach().numpy()
    inputs = [r.name(x), r.constant(weight.detach().numpy()), r.constant(bias_value)]
    return r.node(
        "Conv",
        inputs,
        kernel_shape=kernel,
        strides=pair[0],
        pads=pair[1] * 2,
        dilations=pair[2],
        group=groups,
    )


def _batch_norm(
    r: _Recorder, out: Tensor, x: Tensor, mean: Tensor, var: Tensor, weight: Tensor | None = None,
    bias: Tensor | None = None, training: bool = False, momentum: float = 0.1, eps: float = 1e-5,
) -> str:  # fmt: skip
    if training:
        raise UnsupportedOperation("batch_norm in training mode")
    if weight is None or bias is None:
        raise UnsupportedOperation("batch_norm without affine terms")
    conv = r.producer(r.name(x))
    if conv is None or conv.op_type != "Conv":
        terms = [r.constant(term.detach().numpy()) for term in (weight, bias, mean, var)]
        return r.node("BatchNormalization", [r.name(x), *terms], epsilon=eps)
    if any(conv.output[0] in node.input for node in r.nodes):
        raise UnsupportedOperation("a convolution whose output is used with and without batch norm")
    scale = (weight / torch.sqrt(var + eps)).detach().numpy()
    _, w, b = conv.input
    r.constants[w] = r.constants[w] * scale[:, None, None, None]
    r.constants[b] = (r.constants[b] - mean.numpy()) * scale + bias.detach().numpy()
    r.folded(x)
    return str(conv.output[0])


def _linear(r: _Recorder, out: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> str:
    if x.dim() != 2:
        raise UnsupportedOperation("linear on more than rows of features")
    inputs = [r.name(x), r.name(weight), *([] if bias is None else [r.name(bias)])]
    return r.node("Gemm", inputs, transB=1)


def _avg_pool2d(
    r: _Recorder, out: Tensor, x: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0,
    ceil_mode: bool = False, count_include_pad: bool = True, divisor_override: int | None = None,
) -> str:  # fmt: skip
    if ceil_mode or divisor_override is not None:
        raise UnsupportedOperation("avg_pool2d with ceil_mode or a divisor of its own")
    kernel, stride, padding = (
        list(v) if isinstance(v, tuple | list) else [v, v] for v in (kernel_size, stride or kernel_size, padding)
    )
    return r.node(
        "AveragePool",
        [r.name(x)],
        kernel_shape=kernel,
        strides=stride,
        pads=padding * 2,
        count_include_pad=int(count_include_pad),
    )


def _mul(r: _Recorder, out: Tensor, x: Tensor, other: Any) -> str:
    if isinstance(other, Tensor):
        return r.node("Mul", [r.name(x), r.name(other)])
    return r.node("Mul", [r.name(x), r.constant(np.array(other, np.float32))])


def _add(r: _Recorder, out: Tensor, x: Tensor, other: Any, alpha: float = 1) -> str:
    if alpha != 1 or not isinstance(other, Tensor):
        raise UnsupportedOperation("add of anything but two tensors")
    return r.node("Add", [r.name(x), r.name(other)])


def _transpose(r: _Recorder, out: Tensor, x: Tensor, dim0: int, dim1: int) -> str:
    order = list(range(x.dim()))
    order[dim0], order[dim1] = order[dim1], order[dim0]
    return r.node("Transpose", [r.name(x)], perm=order)


def _reshape(r: _Recorder, out: Tensor, x: Tensor, *_: Any, **__: Any) -> str:
    return r.node("Reshape", [r.name(x), r.constant(np.array(out.shape, np.int64))])


def _interpolate(
    r: _Recorder, out: Tensor, x: Tensor, size: Any = None, scale_factor: Any = None, mode: str = "nearest",
    align_corners: bool | None = None, recompute_scale_factor: bool | None = None, antialias: bool = False,
) -> str:  # fmt: skip
    if size is None or x.dim() != 4 or mode != "bilinear" or align_corners or antialias:
        raise UnsupportedOperation("interpolate of anything but images, bilinearly and to a given size")
    inputs = [r.name(x), "", "", r.constant(np.array(out.shape, np.int64))]
    return r.node("Resize", inputs, mode="linear", coordinate_transformation_mode="half_pixel")


_HANDLERS: dict[Any, Callable[..., str]] = {
    torch.conv2d: _conv2d,
    F.conv2d: _conv2d,
    F.batch_norm: _batch_norm,
    F.relu: lambda r, out, x, inplace=False: r.node("Relu", [r.name(x)]),
    F.hardswish: lambda r, out, x, inplace=False: r.node("HardSwish", [r.name(x)]),
    F.hardsigmoid: lambda r, out, x, inplace=False: r.node("HardSigmoid", [r.name(x)], alpha=1 / 6, beta=0.5),
    F.linear: _linear,
    F.avg_pool2d: _avg_pool2d,
    F.interpolate: _interpolate,
    Tensor.add: _add,
    Tensor.__add__: _add,
    Tensor.mul: _mul,
    Tensor.__mul__: _mul,
    Tensor.view: _reshape,
    Tensor.reshape: _reshape,
    Tensor.flatten: _reshape,
    Tensor.transpose: _transpose,
}


def to_onnx(module: nn.Module, in_shape: Shape, batch: int = 1) -> bytes:
    """Return the module in evaluation mode as an ONNX file for one input (batch, C, H, W), batch norm folded.

    Raises:
        UnsupportedOperation: the module does something that the recorder has no form for.
    """
    image = torch.randn(batch, *in_shape)
    recorder = _Recorder(image)
    with torch.no_grad(), recorder:
        result = module.eval()(image)
    if not recorder.traced(result):
        raise UnsupportedOperation("an output that does not depend on the input")
    nodes, output = recorder.nodes, recorder.name(result)
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [batch, *in_shape])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, list(result.shape))],
        [numpy_helper.from_array(value, name) for name, value in recorder.constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    return bytes(model.SerializeToString())


def disagreement(model: bytes, module: nn.Module, in_shape: Shape, batch: int = 1) -> float:
    """Return the largest difference of ONNX Runtime and PyTorch on one random input, relative to the largest output."""
    image = torch.randn(batch, *in_shape)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: image.numpy()})
    with torch.no_grad():
        expected = module.eval()(image).numpy()
    return float(np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-12))
