"""int8 models: close to the float ones, computed on integers, and the same as ONNX Runtime's own tool gives."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
from sklearn.datasets import load_digits

from latency.emit import to_onnx
from latency.quantize import NotQuantizable, quantize
from nas.delivery.export import export
from search_spaces.block import Block, Network
from search_spaces.cell_operators import AveragePool, NormClassifier, ReLUConvNorm, ResidualDown, Zero
from search_spaces.fbnet import FBNetSpace
from search_spaces.operators import Classifier, ConvNormReLU, MBConv
from search_spaces.squeeze_operators import ConvNormHSwish, PooledHead, Resize, SqueezeMBConv

FLOAT_KERNELS = {"Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul", "Add", "Mul", "AveragePool"}
# What runs on integers how often. h-swish has no such kernel: ONNX Runtime multiplies floats by a hard sigmoid.
BLOCKS = [
    (MBConv((24, 14, 14), 24, 3, 1, 6), {"QLinearConv": 3, "QLinearAdd": 1}),
    (MBConv((24, 14, 14), 32, 5, 2, 3), {"QLinearConv": 3}),
    (MBConv((32, 8, 8), 32, 5, 1, 1, groups=2), {"QLinearConv": 2, "QLinearAdd": 1}),
    (MBConv((32, 8, 8), 32, 3, 1, 2, groups=2), {"QLinearConv": 3, "QLinearAdd": 1}),
    (ConvNormReLU((16, 8, 8), 24, 1, 1), {"QLinearConv": 1}),
    (Classifier((64, 7, 7), 10), {"QLinearGlobalAveragePool": 1, "QGemm": 1}),
    (ReLUConvNorm((16, 8, 8), 16, 3), {"QLinearConv": 1}),
    (ResidualDown((16, 8, 8), 32), {"QLinearConv": 3, "QLinearAveragePool": 1, "QLinearAdd": 1}),
    (AveragePool((16, 8, 8)), {"QLinearAveragePool": 1}),
    (NormClassifier((16, 8, 8), 10), {"QLinearGlobalAveragePool": 1, "QGemm": 1}),
    (SqueezeMBConv((24, 14, 14), 24, 3, 1, 6, squeeze=True), {"QLinearConv": 5, "QLinearMul": 1, "QLinearAdd": 1}),
    (
        SqueezeMBConv((24, 14, 14), 24, 3, 1, 6, squeeze=True, hswish=True),
        {"QLinearConv": 5, "QLinearMul": 1, "Mul": 3},
    ),
    (ConvNormHSwish((16, 8, 8), 24, 1, 1), {"QLinearConv": 1, "Mul": 1}),
    (PooledHead((64, 7, 7), 32, 10), {"QLinearGlobalAveragePool": 1, "QGemm": 2, "Mul": 1}),
    (Resize((3, 28, 28), 20, 20), {"Resize": 1}),
]


def images(count: int, *shape: int) -> list[NDArray[np.float32]]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal((1, *shape)).astype(np.float32) for _ in range(count)]


def outputs(model: bytes, inputs: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {session.get_inputs()[0].name: x})[0] for x in inputs])


def kernels(model: bytes, folder: Path) -> Counter[str]:
    """Return how often ONNX Runtime runs which operator, all its optimisations done."""
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.log_severity_level = 4  # the file would fit this processor alone: so it says
    ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(folder / "optimised.onnx").graph.node)


def distance(found: NDArray, expected: NDArray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


class _Reader(CalibrationDataReader):
    def __init__(self, inputs: Sequence[NDArray[np.float32]]) -> None:
        self._rows: Iterator[dict[str, NDArray]] = iter([{"input": x} for x in inputs])

    def get_next(self) -> dict[str, NDArray] | None:
        return next(self._rows, None)


def by_onnxruntime(model: bytes, inputs: Sequence[NDArray[np.float32]], folder: Path) -> bytes:
    logging.disable(logging.WARNING)
    try:
        (folder / "float.onnx").write_bytes(model)
        quantize_static(
            folder / "float.onnx", folder / "int8.onnx", _Reader(inputs), per_channel=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
        )  # fmt: skip
    finally:
        logging.disable(logging.NOTSET)
    return (folder / "int8.onnx").read_bytes()


@pytest.mark.parametrize(("block", "expected"), BLOCKS, ids=[block.key for block, _ in BLOCKS])
def test_blocks_stay_close_and_run_on_integers(block: Block, expected: dict[str, int], tmp_path: Path) -> None:
    model, inputs = to_onnx(block.build(), block.in_shape), images(4, *block.in_shape)
    quantised = quantize(model, inputs)
    onnx.checker.check_model(onnx.load_from_string(quantised), full_check=True)
    assert distance(outputs(quantised, inputs), outputs(model, inputs)) < 0.03
    found = kernels(quantised, tmp_path)
    assert expected.items() <= found.items() and FLOAT_KERNELS & found.keys() <= expected.keys()


@pytest.mark.parametrize("block", [block for block, _ in BLOCKS[:6]], ids=lambda block: block.key)
def test_as_onnxruntime_quantises(block: Block, tmp_path: Path) -> None:
    model, inputs = to_onnx(block.build(), block.in_shape), images(4, *block.in_shape)
    found, theirs = quantize(model, inputs), by_onnxruntime(model, inputs, tmp_path)
    exact = outputs(model, inputs)
    assert distance(outputs(found, inputs), exact) < 1.1 * distance(outputs(theirs, inputs), exact)
    integer = [name for name in kernels(theirs, tmp_path) if name.startswith("QLinear") or name == "QGemm"]
    assert all(kernels(found, tmp_path)[name] == kernels(theirs, tmp_path)[name] for name in integer)


def seconds(work: Callable[[], object]) -> float:
    def once() -> float:
        start = time.process_time()
        work()
        return time.process_time() - start

    return min(once() for _ in range(3))


def test_faster_than_onnxruntime(tmp_path: Path) -> None:
    block = MBConv((112, 7, 7), 112, 3, 1, 6)
    model, inputs = to_onnx(block.build(), block.in_shape), images(1, *block.in_shape)
    ours, theirs = seconds(lambda: quantize(model, inputs)), seconds(lambda: by_onnxruntime(model, inputs, tmp_path))
    assert ours < theirs / 2


@pytest.fixture(scope="module")
def digits() -> tuple[torch.Tensor, torch.Tensor]:
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    pixels = torch.from_numpy(data.images[order].astype(np.float32) / 8 - 1)[:, None]
    return pixels, torch.from_numpy(data.target[order])


def test_trained_network_as_delivered(digits: tuple[torch.Tensor, torch.Tensor], tmp_path: Path) -> None:
    pixels, labels = digits
    space = FBNetSpace((1, 8, 8), 10)
    network = space.build(space.parse("k3_e3,k3_e1_g2,skip,k3_e3,k3_e1,k5_e3,skip,k3_e1"))
    optimiser = torch.optim.Adam(network.parameters(), 2e-3)
    for step in range(80):
        rows = slice(step * 100 % 1200, step * 100 % 1200 + 100)
        optimiser.zero_grad()
        F.cross_entropy(network(pixels[rows]), labels[rows]).backward()
        optimiser.step()
    export(network.eval(), (1, 8, 8), tmp_path / "net.onnx", {"architecture": "x"}, pixels[:2])
    model = (tmp_path / "net.onnx").read_bytes()
    quantised = quantize(model, [image.numpy() for image in pixels[:64].split(1)])
    assert not FLOAT_KERNELS & kernels(quantised, tmp_path).keys()
    unseen = [image.numpy() for image in pixels[1200:].split(1)]
    exact, integer = (outputs(m, unseen).argmax(1) for m in (model, quantised))
    right = labels[1200:].numpy()
    assert (exact == right).mean() > 0.8
    assert (integer == exact).mean() > 0.97 and (integer == right).mean() > (exact == right).mean() - 0.02
    kept = {entry.key: entry.value for entry in onnx.load_from_string(quantised).metadata_props}
    assert kept["architecture"] == '"x"'


def parsed(shape: str, body: str) -> bytes:
    text = f"<ir_version: 10, opset_import: ['' : 20]> g (float{shape} input) => (float y) {{ {body} }}"
    return bytes(onnx.parser.parse_model(text.replace("'", '"')).SerializeToString())


GRAPHS = {
    "two outputs of one tensor": ("c = Conv(input, w) y = Add(c, c)", {"QLinearConv": 1, "QLinearAdd": 1}),
    "clip": ("c = Conv(input, w) r = Clip(c, zero, six) y = Conv(r, w)", {"QLinearConv": 2}),
    "rectified sum that is used again": (
        "c = Conv(input, w) s = Add(c, input) r = Relu(s) d = Conv(r, w) y = Add(d, s)",
        {"QLinearConv": 2, "QLinearAdd": 2},
    ),
    "pooling": ("c = Conv(input, w) p = MaxPool<kernel_shape=[2, 2]>(c) y = GlobalAveragePool(p)", {"QLinearConv": 1}),
    "concatenation": ("c = Conv(input, w) y = Concat<axis=1>(c, input)", {"QLinearConcat": 1}),
    "matrix product": ("f = Flatten(input) y = MatMul(f, m)", {"MatMulIntegerToFloat": 1}),
    "product of activations": ("t = Transpose<perm=[0, 1, 3, 2]>(input) p = MatMul(input, t) y = Relu(p)", {}),
    "constant factor": ("s = Mul(input, six) y = Conv(s, w)", {"QLinearMul": 1, "QLinearConv": 1}),
    "float operator between": ("c = Conv(input, w) e = Exp(c) y = Conv(e, w)", {"QLinearConv": 2, "Exp": 1}),
    "weights shared, one bias": ("c = Conv(input, w, b) y = Conv(c, w, b)", {"QLinearConv": 2}),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_graphs(name: str, tmp_path: Path) -> None:
    body, expected = GRAPHS[name]
    proto = onnx.load_from_string(parsed("[1,4,4,4]", body))
    rng = np.random.default_rng(1)
    constants = {
        "w": rng.standard_normal((4, 4, 1, 1)), "m": rng.standard_normal((64, 8)), "b": rng.standard_normal(4),
        "zero": np.array(0.0), "six": np.array(0.5),
    }  # fmt: skip
    used = {n for node in proto.graph.node for n in node.input}
    for key, value in constants.items():
        if key in used:
            proto.graph.initializer.append(onnx.numpy_helper.from_array(value.astype(np.float32), key))
    model, inputs = proto.SerializeToString(), images(3, 4, 4, 4)
    quantised = quantize(model, inputs)
    assert distance(outputs(quantised, inputs), outputs(model, inputs)) < 0.03
    found = kernels(quantised, tmp_path)
    assert expected.items() <= found.items() and not (FLOAT_KERNELS - {"MatMul"}) & found.keys()


def test_channel_without_weights_keeps_its_bias() -> None:
    convolution = torch.nn.Conv2d(4, 4, 1)
    with torch.no_grad():
        convolution.weight[1] = 0
        convolution.weight[2] = 1e-12
    model, inputs = to_onnx(convolution, (4, 4, 4)), images(2, 4, 4, 4)
    found, expected = outputs(quantize(model, inputs), inputs), outputs(model, inputs)
    assert np.abs(found - expected).max() < 0.02 * np.abs(expected).max()


def test_all_zeros() -> None:
    block = Zero((4, 4, 4))
    model, inputs = to_onnx(block.build(), block.in_shape), images(1, 4, 4, 4)
    assert not outputs(quantize(model, inputs), inputs).any()
    assert not outputs(quantize(model, [0 * inputs[0]]), inputs).any()


def test_ranges_are_those_of_all_inputs() -> None:
    block = ConvNormReLU((4, 4, 4), 4, 1, 1)
    model, (one, other) = to_onnx(block.build(), block.in_shape), images(2, 4, 4, 4)
    apart, together = quantize(model, [one]), quantize(model, [one, 3 * other])
    expected = outputs(model, [3 * other])
    assert distance(outputs(together, [3 * other]), expected) < 0.03
    assert distance(outputs(apart, [3 * other]), expected) > 0.03


def test_batch() -> None:
    block = MBConv((8, 4, 4), 8, 3, 1, 3)
    model, inputs = to_onnx(block.build(), block.in_shape, 3), [np.concatenate(images(3, 8, 4, 4))]
    assert distance(outputs(quantize(model, inputs), inputs), outputs(model, inputs)) < 0.03


def test_whole_networks_keep_their_scores() -> None:
    space = FBNetSpace((3, 32, 32), 10)
    model = to_onnx(space.build(space.parse("k3_e1,k5_e1_g2,k3_e3,k3_e6,k3_e1_g2,k5_e1,k5_e6,skip")), (3, 32, 32))
    inputs = images(2, 3, 32, 32)
    assert distance(outputs(quantize(model, inputs), inputs), outputs(model, inputs)) < 0.05


def test_nothing_to_quantise() -> None:
    with pytest.raises(NotQuantizable, match="no operator of the model has an int8 form: Relu"):
        quantize(to_onnx(Network([torch.nn.ReLU()]), (1, 2, 2)), images(1, 1, 2, 2))
