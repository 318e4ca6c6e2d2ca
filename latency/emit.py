"""Torch module to ONNX in milliseconds: one concrete forward pass is recorded and written down.

``torch.onnx.export`` takes up to seconds per block; a latency table has a hundred. The pass runs under a
``TorchFunctionMode``: calls on traced tensors become ONNX nodes, everything else is a constant. Whatever
the recorder does not know raises ``UnsupportedOperation`` and nothing is guessed; ``disagreement`` compares
the result with PyTorch before it is trusted.
"""

import copy
from collections import Counter

import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from latency.operations import HANDLERS
from latency.recorder import Recorder, UnsupportedOperation
from search_spaces.block import Shape

# Where outputs are small differences of large numbers float32 gives few digits of them; engines differ in the others.
ROUNDINGS = 10
OPSET = 20
IR_VERSION = 10


def _batch_norms_folded(
    nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], output: str
) -> list[onnx.NodeProto]:
    """Return the nodes without the batch norms that convolutions can do, whose ``constants`` change.

    A convolution whose result is used without the norm too stays as it is.
    """
    uses = Counter([output, *(name for node in nodes for name in node.input)])
    producers: dict[str, onnx.NodeProto] = {}
    kept = []
    for node in nodes:
        conv = producers.get(node.input[0])
        if node.op_type == "BatchNormalization" and conv is not None and uses[conv.output[0]] == 1:
            weight, bias, mean, var = (constants.pop(name) for name in node.input[1:])
            scale = weight / np.sqrt(var + node.attribute[0].f)
            _, kernel, shift = conv.input
            constants[kernel] = constants[kernel] * scale[:, None, None, None]
            constants[shift] = (constants[shift] - mean) * scale + bias
            conv.output[0] = node.output[0]
            node = conv
        else:
            kept.append(node)
        if node.op_type == "Conv":
            producers[node.output[0]] = node
    return kept


def to_onnx(module: nn.Module, in_shape: Shape, batch: int = 1) -> bytes:
    """Return the module in evaluation mode as an ONNX file for one input (batch, C, H, W), batch norm folded.

    Raises:
        UnsupportedOperation: the module does something that the recorder has no form for.
    """
    image = torch.randn(batch, *in_shape)
    recorder = Recorder(image, HANDLERS)
    with torch.no_grad(), recorder:
        result = module.eval()(image)
    if not recorder.traced(result):
        raise UnsupportedOperation("an output that does not depend on the input")
    output = recorder.name(result)
    nodes = _batch_norms_folded(recorder.nodes, recorder.constants, output)
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


def explained(module: nn.Module, images: torch.Tensor) -> float:
    """Return by how much outputs for ``images`` may differ between engines for no other reason than float32.

    As a part of the largest output: ``ROUNDINGS`` times what the module itself differs in float64.
    """
    with torch.no_grad():
        exact = copy.deepcopy(module).double().eval()(images.double())
        found = module.eval()(images).double()
    return ROUNDINGS * float((found - exact).abs().max() / exact.abs().max().clamp(min=1e-12))
