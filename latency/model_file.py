"""ONNX files of unknown origin: checked before they are sent anywhere."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import external_data_helper, helper

from latency.device import Device
from search_spaces.errors import InputError

# What protobuf can hold in one message.
_MOST_BYTES = 2**31 - 1
_QUANTISED = re.compile(r"QuantizeLinear|DequantizeLinear|QLinear\w+|QGemm|ConvInteger|MatMulInteger")
# ONNX Runtime puts its own kind of error, and often the place in its source, before what it has to say.
_ORIGIN = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : (/\S+:\d+ .*?\)( const)? (?=[A-Z]))?")


def read_model(path: Path) -> bytes:
    """Return the content of an ONNX file that can be run by itself; external data are taken into it.

    Raises:
        InputError: the file cannot be read, is not ONNX, has inputs without fixed sizes, lacks its external data or
            reaches for files elsewhere, is larger than 2 GB, or holds what ONNX Runtime cannot run.
    """
    try:
        size = path.stat().st_size
        content = path.read_bytes() if size <= _MOST_BYTES else b""
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    _require_size(path, size)
    try:
        proto = onnx.load_from_string(content)
    except Exception:  # protobuf's own, which onnx does not name
        raise InputError(f"{path} is not an ONNX file, or only a part of one") from None
    if not proto.graph.node:
        raise InputError(f"{path} is not an ONNX file: it holds no operators")
    for value in _inputs(proto):
        _require_fixed(path, value)
    if any(external_data_helper.uses_external_data(tensor) for tensor in proto.graph.initializer):
        content = _self_contained(path, proto)
    _require_runnable(path, content)
    return content


def require_form(path: Path, content: bytes, device: Device) -> None:
    """Raise ``InputError`` unless the file has the batch and the precision that the device names.

    A file fixes both by itself; a device that names them promises what is measured.
    """
    proto = onnx.load_from_string(content)
    batch = [dim.dim_value for value in _inputs(proto) for dim in value.type.tensor_type.shape.dim[:1]][:1]
    if device.batch > 1 and batch != [device.batch]:
        found = f"its input has batch {batch[0]}" if batch else "it has no batch"
        raise InputError(f"{path}: {found}, {device.name} asks for {device.batch}; export it with that batch")
    if device.precision == "int8" and not any(_QUANTISED.fullmatch(node.op_type) for node in proto.graph.node):
        raise InputError(
            f"{path} computes in float, {device.name} asks for int8; give the quantised file "
            "(NAME.int8.onnx of a run), which any device measures as it is"
        )


def _inputs(proto: onnx.ModelProto) -> Iterator[onnx.ValueInfoProto]:
    constants = {tensor.name for tensor in proto.graph.initializer}  # old files list them among the inputs
    return (value for value in proto.graph.input if value.name not in constants)


def _require_size(path: Path, size: float) -> None:
    if size > _MOST_BYTES:
        raise InputError(f"{path} has {size / 2**30:.1f} GiB with its weights; models of up to 2 GiB can be measured")


def _require_fixed(path: Path, value: onnx.ValueInfoProto) -> None:
    kind = value.type.tensor_type
    if not value.type.HasField("tensor_type") or not kind.HasField("shape"):
        raise InputError(f"{path}: input {value.name!r} is no tensor of a fixed shape; export it with fixed sizes")
    for i, dim in enumerate(kind.shape.dim):
        if dim.dim_value < 1:
            called = f" ({dim.dim_param!r})" if dim.dim_param else ""
            raise InputError(
                f"{path}: dimension {i}{called} of input {value.name!r} has no fixed size; export it with fixed sizes"
            )


def _self_contained(path: Path, proto: onnx.ModelProto) -> bytes:
    outside = [tensor for tensor in proto.graph.initializer if external_data_helper.uses_external_data(tensor)]
    for tensor in outside:
        place = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
        if not (path.parent / place).exists():
            raise InputError(f"{path} keeps weights in {path.parent / place}, which is missing; put it there")
    sizes = (np.prod(t.dims) * helper.tensor_dtype_to_np_dtype(t.data_type).itemsize for t in outside)
    _require_size(path, proto.ByteSize() + float(sum(sizes)))
    try:
        external_data_helper.load_external_data_for_model(proto, str(path.parent))  # only from the file's own folder
    except (onnx.checker.ValidationError, OSError, ValueError) as error:
        raise InputError(f"{path}: its external data cannot be read: {error}") from None
    return bytes(proto.SerializeToString())


def _require_runnable(path: Path, content: bytes) -> None:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    try:
        ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's own exceptions have no common parent
        text = _ORIGIN.sub("", " ".join(str(error).split()))
        raise InputError(f"{path}: ONNX Runtime {ort.__version__} cannot run it: {text}") from None
