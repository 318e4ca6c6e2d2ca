"""The ONNX files that are measured: in the device's batch and precision, distinct, and the same in every call."""

import threading
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from fakes import Cancelling
from torch import nn
from toy_space import ToySpace

from latency import models as module
from latency.device import Device
from latency.emit import disagreement, to_onnx
from latency.models import (
    PROBE_DEPTHS,
    PROBED_SHAPES,
    TOLERANCE,
    block_models,
    border_probes,
    device_model,
    network_models,
    plain_ends,
    probe_name,
    probed_shapes,
    seeded,
    session_model,
    spread_networks,
)
from latency.quantize import NotQuantizable
from search_spaces.block import Block
from search_spaces.cell_operators import AveragePool, NormClassifier, ReLUConvNorm, ResidualDown, Zero
from search_spaces.einspace.space import EinSpace
from search_spaces.fbnet import FBNetSpace
from search_spaces.nb201 import NB201Space
from search_spaces.operators import Classifier, ConvNormReLU, Identity, MBConv
from search_spaces.space import SearchSpace

CPU = Device()
SPACE = ToySpace()
LAYER = MBConv((8, 4, 4), 8, 3, 1, 3)


def shape_of(content: bytes) -> list[int]:
    (given,) = onnx.load_from_string(content).graph.input
    return [dim.dim_value for dim in given.type.tensor_type.shape.dim]


def operators(content: bytes) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load_from_string(content).graph.node)


def run(content: bytes, image: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(content, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: image})
    return np.asarray(found)


# --- blocks and networks


def test_every_block_has_a_file_and_what_runs_nothing_has_none() -> None:
    blocks = [LAYER, Identity((8, 4, 4)), Zero((8, 4, 4)), Classifier((8, 4, 4), 3), LAYER]
    assert list(block_models(blocks, CPU)) == [LAYER.key, Classifier((8, 4, 4), 3).key]


@pytest.mark.parametrize("space", [SPACE, NB201Space((1, 8, 8), 3)], ids=lambda space: space.name)
@pytest.mark.parametrize("device", ["cpu", "cpu:batch=3", "cpu:int8", "cpu:batch=3,int8"])
def test_files_have_the_device_s_batch_and_precision(device: str, space: SearchSpace) -> None:
    target = Device.parse(device)
    blocks = {b.key: b for b in space.distinct_blocks() if not b.free}
    found = block_models(blocks.values(), target)
    assert list(found) == list(blocks)
    for key, model in found.items():
        assert shape_of(model.content) == [target.batch, *blocks[key].in_shape]
        quantised = {"QuantizeLinear", "DequantizeLinear"} <= operators(model.content).keys()
        assert quantised is (target.precision == "int8")
        image = np.random.default_rng(0).standard_normal((target.batch, *blocks[key].in_shape)).astype(np.float32)
        assert len(run(model.content, image)) == target.batch
    networks = spread_networks(space, 2, 0)
    whole = network_models(space, networks, target)
    assert list(whole) == [a.text for a in networks]
    assert all(shape_of(content) == [target.batch, *space.input_shape] for content in whole.values())


def test_branches_that_training_sets_apart_are_all_run(tmp_path: Path) -> None:
    # Fresh norms are all alike: an engine would run one of them.
    space = EinSpace((4, 8, 8), 3)
    network = space.parse("einspace:branch,clone2,add,op,norm,op,norm")
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    ort.InferenceSession(network_models(space, [network], CPU)[network.text], options, ["CPUExecutionProvider"])
    assert operators((tmp_path / "optimised.onnx").read_bytes())["BatchNormalization"] == 2


def test_int8_files_are_the_float_ones_but_for_rounding() -> None:
    with seeded(0):
        exact = device_model(LAYER.build(), LAYER.in_shape, CPU, "x")
    with seeded(0):
        integer = device_model(LAYER.build(), LAYER.in_shape, Device.parse("cpu:int8"), "x")
    image = np.random.default_rng(1).standard_normal((1, *LAYER.in_shape)).astype(np.float32)
    expected = run(exact, image)
    assert 0 < np.linalg.norm(run(integer, image) - expected) < 0.1 * np.linalg.norm(expected)


class Twice(nn.Module):
    """Computes twice what another module does."""

    def __init__(self, other: nn.Module) -> None:
        super().__init__()
        self.other = other

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.other(x)
        return y + y


def test_files_that_disagree_with_torch_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "to_onnx", lambda network, *how: to_onnx(Twice(network), *how))
    with pytest.raises(RuntimeError, match=rf"differ by 1\.0e\+00 on {LAYER.key}"):
        block_models([LAYER], CPU)
    with pytest.raises(RuntimeError, match=r"differ by 1\.0e\+00 on toy:no,no"):
        network_models(SPACE, [SPACE.named()["smallest"]], CPU)


def test_networks_that_float32_does_not_determine_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Cancelling(48)
    with seeded(0):
        assert disagreement(to_onnx(network, (48, 1, 1)), network, (48, 1, 1)) > TOLERANCE
        assert device_model(network, (48, 1, 1), CPU, "x")
    monkeypatch.setattr(module, "to_onnx", lambda network, *how: to_onnx(Twice(network), *how))
    with seeded(0), pytest.raises(RuntimeError, match=r"differ by .*e\+00 on x"):
        device_model(network, (48, 1, 1), CPU, "x")


def test_what_has_no_int8_form_is_said() -> None:
    with pytest.raises(NotQuantizable, match="Relu"):
        device_model(nn.ReLU(), (1, 2, 2), Device.parse("cpu:int8"), "x")


def test_an_empty_session_computes_next_to_nothing() -> None:
    for device in ("cpu", "cpu:int8", "cpu:batch=2"):
        model = session_model(Device.parse(device))
        assert operators(model) == {"Relu": 1} and shape_of(model) == [Device.parse(device).batch, 1, 1, 1]


# --- ends


@pytest.mark.parametrize(
    ("block", "ends"),
    [
        (ConvNormReLU((16, 6, 6), 24, 3, 1), (False, False)),
        (MBConv((16, 6, 6), 16, 3, 1, 3), (False, False)),
        (MBConv((16, 6, 6), 16, 3, 1, 3, groups=2), (True, True)),
        # Without an expansion, the first convolution is the depthwise one.
        (MBConv((16, 6, 6), 16, 3, 1, 1, groups=2), (False, True)),
        (MBConv((16, 6, 6), 16, 3, 1, 1, groups=2, always_expand=True), (True, True)),
        (Classifier((16, 6, 6), 10), (False, False)),
        (ReLUConvNorm((16, 6, 6), 16, 3), (False, False)),
        (ResidualDown((16, 6, 6), 32), (False, False)),
        (AveragePool((16, 6, 6)), (False, False)),
        (NormClassifier((16, 6, 6), 10), (False, False)),
    ],
    ids=lambda value: value.key if isinstance(value, Block) else "",
)
@pytest.mark.parametrize("device", ["cpu", "cpu:int8"])
def test_ends_of_blocks(block: Block, ends: tuple[bool, bool], device: str) -> None:
    (model,) = block_models([block], Device.parse(device)).values()
    assert (model.plain_start, model.plain_end) == ends


GRAPHS = {
    "MatMul, then Conv": ("p = MatMul(input, m) y = Conv(p, w)", (True, False)),
    "Conv, then MatMul": ("c = Conv(input, w) y = MatMul(c, m)", (False, True)),
    "normalisation between": ("c = Conv(input, w) n = LayerNormalization(c, s) y = Conv(n, w)", (False, False)),
    "grouped, then depthwise": ("c = Conv<group=2>(input, g) y = Conv<group=4>(c, d)", (True, False)),
    "depthwise alone": ("y = Conv<group=4>(input, d)", (False, False)),
    "neither": ("y = Relu(input)", (False, False)),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_ends_of_graphs(name: str) -> None:
    body, expected = GRAPHS[name]
    text = f'<ir_version: 10, opset_import: ["" : 20]> g (float[1,4,4,4] input) => (float y) {{ {body} }}'
    proto = onnx.parser.parse_model(text)
    constants = {"m": (4, 4), "w": (4, 4, 1, 1), "g": (4, 2, 1, 1), "d": (4, 1, 1, 1), "s": (4,)}
    for key, shape in constants.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(shape, np.float32), key))
    run(proto.SerializeToString(), np.zeros((1, 4, 4, 4), np.float32))  # the graph is one that runs
    assert plain_ends(proto.SerializeToString()) == expected


# --- probes


def test_probed_shapes_are_the_largest_between_blocks() -> None:
    for space in (FBNetSpace((3, 32, 32), 10), NB201Space((3, 8, 8), 10)):
        found = probed_shapes(space)
        between = {b.in_shape for b in space.distinct_blocks() if not b.free} - {space.input_shape}
        assert len(found) == PROBED_SHAPES and set(found) <= between
        smallest = min(np.prod(shape) for shape in found)
        assert all(np.prod(shape) <= smallest for shape in between - set(found))
    assert probed_shapes(SPACE) == [(8, 3, 3)]


@pytest.mark.parametrize("device", ["cpu", "cpu:batch=2", "cpu:int8"])
def test_probes_differ_by_convolutions_alone(device: str) -> None:
    shapes = [(8, 6, 6), (4, 5, 3)]
    target = Device.parse(device)
    probes = border_probes(shapes, target)
    assert list(probes) == [probe_name(shape, depth) for shape in shapes for depth in PROBE_DEPTHS]
    first, last = PROBE_DEPTHS
    assert 1 == first < last
    for shape in shapes:
        few, many = (probes[probe_name(shape, depth)] for depth in PROBE_DEPTHS)
        assert shape_of(few) == shape_of(many) == [target.batch, *shape]
        image = np.zeros((target.batch, *shape), np.float32)
        assert run(few, image).shape == run(many, image).shape == image.shape
        deeper = operators(many) - operators(few)
        assert deeper["Conv"] == deeper["Relu"] == last - first and operators(few)["Conv"] == 1
        rest = deeper.keys() - {"Conv", "Relu"}
        assert rest == ({"QuantizeLinear", "DequantizeLinear"} if target.precision == "int8" else set())


# --- draws


def test_spread_networks_are_different_and_reproducible() -> None:
    space = FBNetSpace((1, 8, 8), 10)
    drawn = spread_networks(space, 30, 1)
    assert len({a.id for a in drawn}) == 30
    assert drawn == spread_networks(space, 30, 1) and drawn[:5] == spread_networks(space, 5, 1)
    assert drawn != spread_networks(space, 30, 2)


def test_a_small_space_gives_what_it_has() -> None:
    assert len({a.id for a in spread_networks(SPACE, 100, 0)}) == 21


def test_seeded_weights_are_the_same_and_the_random_state_stays() -> None:
    state = torch.random.get_rng_state()
    found = []
    for seed in (3, 3, 4):
        with seeded(seed):
            found.append(block_models([LAYER], CPU)[LAYER.key].content)
    assert found[0] == found[1] != found[2]
    assert torch.equal(torch.random.get_rng_state(), state)


def test_threads_draw_one_after_another() -> None:
    """Torch has one random state for all threads: a second one must wait until the first has drawn its weights."""
    drawn: dict[str, torch.Tensor] = {}
    inside, drawing = threading.Event(), threading.Event()

    def other() -> None:
        inside.wait(10)
        drawing.set()
        with seeded(1):
            drawn["other"] = torch.rand(4)

    thread = threading.Thread(target=other)
    thread.start()
    with seeded(1):
        first = torch.rand(2)
        inside.set()
        drawing.wait(10)
        thread.join(0.05)
        assert "other" not in drawn
        drawn["mine"] = torch.cat([first, torch.rand(2)])
    thread.join(10)
    assert torch.equal(drawn["mine"], drawn["other"])
