"""ONNX files of unknown origin: read, or refused in one line that names what is wrong."""

import os
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from measuring_jobs import matmul, onnx_file
from onnx import TensorProto, numpy_helper, parser
from onnx.external_data_helper import set_external_data

from latency.device import Device
from latency.emit import to_onnx
from latency.model_file import read_model, require_form
from latency.quantize import quantize
from search_spaces.errors import InputError
from search_spaces.operators import ConvNormReLU

CONV = ConvNormReLU((4, 4, 4), 4, 1, 1)


def refused(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_model(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    return str(caught.value)


def written(folder: Path, content: bytes) -> Path:
    (folder / "model.onnx").write_bytes(content)
    return folder / "model.onnx"


def graph(opset: int, body: str, shape: str = "[1, 3]", domain: str = "") -> bytes:
    imports = f'"" : {opset}' + (f', "{domain}" : 1' if domain else "")
    text = f"<ir_version: 10, opset_import: [{imports}]> g (float{shape} x) => (float y) {{ {body} }}"
    return bytes(parser.parse_model(text).SerializeToString())


def test_whole_files_are_read_as_they_are(tmp_path: Path) -> None:
    content = matmul(8)
    assert read_model(written(tmp_path, content)) == content


def test_missing_and_unreadable(tmp_path: Path) -> None:
    assert "does not exist" in refused(tmp_path / "model.onnx")
    assert "cannot be read: Is a directory" in refused(tmp_path)
    assert "cannot be read: Not a directory" in refused(written(tmp_path, b"") / "below")


@pytest.mark.parametrize(
    "content",
    [b"", b"\n", b'{"schema_version": 1}', b"PK\x03\x04 zip", b"\x08\x0a", matmul(8)[:-100], matmul(8)[:40],
     np.random.default_rng(0).bytes(1000)],
    ids=["empty", "line feed", "JSON", "zip", "header", "without its end", "the beginning", "random"],
)  # fmt: skip
def test_no_onnx_file(content: bytes, tmp_path: Path) -> None:
    assert "is not an ONNX file" in refused(written(tmp_path, content))


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ("[batch, 3]", "dimension 0 ('batch') of input 'x' has no fixed size; export it with fixed sizes"),
        ("[1, ?]", "dimension 1 of input 'x' has no fixed size"),
        ("[]", "input 'x' is no tensor of a fixed shape; export it with fixed sizes"),
    ],
)
def test_dynamic_shapes(shape: str, said: str, tmp_path: Path) -> None:
    assert said in refused(written(tmp_path, graph(20, "y = Relu(x)", shape)))


def test_input_that_is_no_tensor(tmp_path: Path) -> None:
    model = onnx.load_from_string(graph(20, "y = Relu(x)"))
    kind = onnx.helper.make_sequence_type_proto(onnx.helper.make_tensor_type_proto(TensorProto.FLOAT, [1]))
    model.graph.input[0].type.CopyFrom(kind)
    assert "is no tensor of a fixed shape" in refused(written(tmp_path, model.SerializeToString()))


def test_constants_among_the_inputs_as_old_files_list_them(tmp_path: Path) -> None:
    model = onnx.load_from_string(matmul(8))
    model.graph.input.append(onnx.helper.make_tensor_value_info("constant0", TensorProto.FLOAT, ["n", "m"]))
    read_model(written(tmp_path, model.SerializeToString()))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (graph(20, "y = Foo(x)"), "No Op registered for Foo"),
        (graph(20, "y = com.foo.Bar(x)", domain="com.foo"), "com.foo:Bar"),
        (graph(99, "y = Relu(x)"), "ONNX Runtime only *guarantees* support"),
        (graph(20, "y = Relu(z)"), "Node input 'z'"),
    ],
    ids=["operator", "domain", "opset", "wiring"],
)
def test_what_onnxruntime_refuses(content: bytes, said: str, tmp_path: Path) -> None:
    text = refused(written(tmp_path, content))
    assert f"ONNX Runtime {ort.__version__} cannot run it: " in text and said in text
    assert "ONNXRuntimeError" not in text and "/onnxruntime" not in text


def external(folder: Path, location: str, size: int = 64) -> Path:
    """Write a model whose weights (``size`` x 64, float32) are expected at ``location``."""
    model = onnx.load_from_string(matmul(64))
    weights = model.graph.initializer[0]
    values = weights.raw_data
    weights.ClearField("raw_data")
    weights.raw_data = b""
    set_external_data(weights, location)
    weights.ClearField("raw_data")
    weights.dims[0] = size
    if size == 64 and not os.path.isabs(location):
        (folder / location).parent.mkdir(exist_ok=True)
        (folder / location).write_bytes(values)
    return written(folder, model.SerializeToString())


def test_external_data_are_taken_in(tmp_path: Path) -> None:
    content = read_model(external(tmp_path, "model.data"))
    found = onnx.load_from_string(content).graph.initializer[0]
    expected = onnx.load_from_string(matmul(64)).graph.initializer[0]
    assert np.array_equal(numpy_helper.to_array(found), numpy_helper.to_array(expected))


def test_external_data_missing_or_short(tmp_path: Path) -> None:
    path = external(tmp_path, "model.data")
    (tmp_path / "model.data").write_bytes(b"short")
    text = refused(path)
    assert "cannot" in text
    (tmp_path / "model.data").unlink()
    assert f"keeps weights in {tmp_path / 'model.data'}, which is missing; put it there" in refused(path)


def test_external_data_elsewhere(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    assert "its external data cannot be read" in refused(external(folder, "../secret"))
    assert "its external data cannot be read" in refused(external(folder, "/etc/passwd"))
    (folder / "link").symlink_to(tmp_path / "secret")
    (tmp_path / "secret").write_bytes(bytes(64 * 64 * 4))
    path = external(folder, "aside/data")
    (folder / "aside" / "data").unlink()
    (folder / "aside" / "data").symlink_to(tmp_path / "secret")
    assert "its external data cannot be read" in refused(path)


def test_more_than_one_file_can_hold(tmp_path: Path) -> None:
    path = external(tmp_path, "model.data", size=2**24)
    (tmp_path / "model.data").touch()
    assert "has 4.0 GiB with its weights; models of up to 2 GiB" in refused(path)
    with written(tmp_path, b"").open("wb") as sparse:
        sparse.truncate(3 * 2**30)
    assert "has 3.0 GiB" in refused(path)


def test_batch_of_the_device_and_of_the_file() -> None:
    path, content = Path("m.onnx"), to_onnx(CONV.build(), CONV.in_shape, batch=4)
    require_form(path, content, Device())
    require_form(path, content, Device(batch=4))
    with pytest.raises(InputError, match=r"m\.onnx: its input has batch 4, cpu:batch=2 asks for 2; export it with"):
        require_form(path, content, Device(batch=2))
    with pytest.raises(InputError, match="it has no batch"):
        without = onnx.load_from_string(onnx_file("Relu", [1], TensorProto.FLOAT))
        del without.graph.input[:]
        require_form(path, without.SerializeToString(), Device(batch=2))


def test_precision_of_the_device_and_of_the_file() -> None:
    path, content = Path("m.onnx"), to_onnx(CONV.build(), CONV.in_shape)
    with pytest.raises(InputError, match=r"m\.onnx computes in float, cpu:int8 asks for int8; give .*\.int8\.onnx"):
        require_form(path, content, Device(precision="int8"))
    quantised = quantize(content, [np.ones((1, 4, 4, 4), np.float32)])
    require_form(path, quantised, Device(precision="int8"))
    require_form(path, quantised, Device())
