"""Delivered ONNX files work in ONNX Runtime alone, say what they are, and compute what was trained."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from fakes import Cancelling
from torch import nn

from nas.delivery import export as module
from nas.delivery.export import (
    TOLERANCE,
    ExportFailed,
    ModelScores,
    export,
    file_accuracy,
    file_metadata,
    largest_difference,
)
from nas.training.data import Dataset, Split
from search_spaces.fbnet import FBNetSpace
from search_spaces.fbnetv2 import FBNetV2Space

SPACE = FBNetSpace((3, 8, 12), 5)
ARCHITECTURE = SPACE.parse("k3_e1,k3_e6,skip,k5_e1_g2,skip,k5_e3,k3_e1,k3_e3")
CLASSES = ("café", "dog", "bird", "a, b", "x")
IMAGES = Split(np.zeros((1, 8, 12, 3), np.uint8), np.zeros(1, np.int64))
DATA = Dataset("made up", CLASSES, IMAGES, IMAGES, IMAGES, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), digest="")
METADATA = file_metadata(ARCHITECTURE.text, DATA)


@pytest.fixture
def network() -> nn.Module:
    built = SPACE.build(ARCHITECTURE).train()
    with torch.no_grad():
        built(3 * torch.randn(16, *SPACE.input_shape) + 1)  # running statistics of their own
    return built


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(6, *SPACE.input_shape)


def test_difference_is_small_and_measured(network: nn.Module, images: torch.Tensor, tmp_path: Path) -> None:
    path = tmp_path / "models" / "net.onnx"
    difference = export(network, SPACE.input_shape, path, METADATA, images)
    assert 0 <= difference <= TOLERANCE
    assert difference == largest_difference(network, path.read_bytes(), images)
    assert [found.name for found in path.parent.iterdir()] == ["net.onnx"]
    assert not network.training


def test_resizing_squeeze_excite_and_h_swish(tmp_path: Path) -> None:
    space = FBNetV2Space((1, 28, 28), 4)
    network = space.build(
        space.parse("20x20,k5sh,k5sh,e4,c24,k3,e2,c24,k5,e3,c32,skip,skip,k3sh,e6,c96,skip,skip")
    ).train()
    images = torch.randn(16, *space.input_shape)
    with torch.no_grad():
        network(images)
    export(network, space.input_shape, tmp_path / "net.onnx", {}, images)
    used = {node.op_type for node in onnx.load(tmp_path / "net.onnx").graph.node}
    assert {"Resize", "HardSwish", "HardSigmoid", "Mul"} <= used


def test_runs_in_onnx_runtime_alone(network: nn.Module, images: torch.Tensor, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    export(network, SPACE.input_shape, path, METADATA, images)
    np.save(tmp_path / "image.npy", images[:1].numpy())
    code = (
        "import json, sys, numpy as np, onnxruntime as ort\n"
        "session = ort.InferenceSession(sys.argv[1], providers=['CPUExecutionProvider'])\n"
        "(scores,) = session.run(['scores'], {'input': np.load(sys.argv[2])})\n"
        "assert 'torch' not in sys.modules\n"
        "properties = session.get_modelmeta().custom_metadata_map\n"
        "print(json.dumps([scores.tolist(), {key: json.loads(value) for key, value in properties.items()}]))\n"
    )
    command = [sys.executable, "-c", code, str(path), str(tmp_path / "image.npy")]
    output = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    scores, properties = json.loads(output)
    with torch.no_grad():
        expected = network(images[:1]).numpy()
    np.testing.assert_allclose(scores, expected, atol=TOLERANCE)
    assert {key: properties[key] for key in METADATA} == {
        "architecture": ARCHITECTURE.text,
        "classes": list(CLASSES),
        "preprocessing": "RGB, stretched to 12 x 8 px, scaled to [0, 1], (x - mean) / std",
        "mean": [0.1, 0.2, 0.3],
        "std": [0.4, 0.5, 0.6],
    }


def test_shapes_and_names_in_the_file(network: nn.Module, images: torch.Tensor, tmp_path: Path) -> None:
    export(network, SPACE.input_shape, tmp_path / "net.onnx", METADATA, images)
    graph = onnx.load(tmp_path / "net.onnx").graph
    (given,), (found,) = graph.input, graph.output
    assert (given.name, [d.dim_value for d in given.type.tensor_type.shape.dim]) == ("input", [1, 3, 8, 12])
    assert (found.name, [d.dim_value for d in found.type.tensor_type.shape.dim]) == ("scores", [1, 5])


@pytest.fixture(scope="module")
def batched(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, bytes]:
    """A network and its file, which takes four images at a time."""
    torch.manual_seed(0)
    network = SPACE.build(ARCHITECTURE)
    path = tmp_path_factory.mktemp("batched") / "net.onnx"
    export(network, SPACE.input_shape, path, METADATA, torch.randn(6, *SPACE.input_shape), batch=4)
    return network, path.read_bytes()


def test_file_of_a_batch(batched: tuple[nn.Module, bytes]) -> None:
    graph = onnx.load_from_string(batched[1]).graph
    (given,), (found,) = graph.input, graph.output
    assert [d.dim_value for d in given.type.tensor_type.shape.dim] == [4, 3, 8, 12]
    assert [d.dim_value for d in found.type.tensor_type.shape.dim] == [4, 5]


@pytest.mark.parametrize("count", [1, 3, 4, 5, 8, 11])
def test_scores_of_any_number_of_images(count: int, batched: tuple[nn.Module, bytes]) -> None:
    network, content = batched
    images = torch.randn(count, *SPACE.input_shape)
    with torch.no_grad():
        expected = network(images).numpy()
    found = ModelScores(content)(images)
    assert found.shape == (count, 5)
    np.testing.assert_allclose(found, expected, atol=TOLERANCE)
    # Whatever fills the last batch up has no part in it, and a layout in memory of its own does not matter.
    np.testing.assert_array_equal(ModelScores(content)(images.contiguous(memory_format=torch.channels_last)), found)
    assert largest_difference(network, content, images) == np.abs(found - expected).max()


def test_accuracy_is_that_of_the_file(batched: tuple[nn.Module, bytes]) -> None:
    network, content = batched
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (11, 8, 12, 3), dtype=np.uint8)
    normalised = (pixels / 255 - np.array(DATA.mean)) / np.array(DATA.std)
    with torch.no_grad():
        classes = network(torch.from_numpy(normalised.transpose(0, 3, 1, 2)).float()).argmax(1).numpy()
    for right in (0, 7, 11):
        labels = np.where(np.arange(11) < right, classes, (classes + 1) % 5)
        assert file_accuracy(content, Split(pixels, labels.astype(np.int64)), DATA) == right / 11


@pytest.mark.parametrize("change", [0.5, float("nan"), float("inf")])
def test_file_that_computes_something_else_is_not_delivered(
    change: float, network: nn.Module, images: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported = module._exported

    def tampered(*arguments: object) -> onnx.ModelProto:
        model = exported(*arguments)  # type: ignore[arg-type]
        bias = next(i for i in model.graph.initializer if list(i.dims) == [5])
        values = onnx.numpy_helper.to_array(bias) + np.float32(change)
        bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
        return model

    monkeypatch.setattr(module, "_exported", tampered)
    with pytest.raises(ExportFailed, match=r"PyTorch and ONNX Runtime differ by .*, more than 1e-03"):
        export(network, SPACE.input_shape, tmp_path / "net.onnx", METADATA, images)
    assert list(tmp_path.iterdir()) == []


def test_scores_that_float32_does_not_determine_are_delivered(tmp_path: Path) -> None:
    images = torch.randn(4, 48, 1, 1, generator=torch.Generator().manual_seed(0))
    assert TOLERANCE < export(Cancelling(48), (48, 1, 1), tmp_path / "net.onnx", {}, images) < 1


def test_invalid_file_is_not_delivered(
    network: nn.Module, images: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported = module._exported

    def broken(*arguments: object) -> onnx.ModelProto:
        model = exported(*arguments)  # type: ignore[arg-type]
        del model.graph.node[0]
        return model

    monkeypatch.setattr(module, "_exported", broken)
    with pytest.raises(ExportFailed, match="no valid ONNX"):
        export(network, SPACE.input_shape, tmp_path / "net.onnx", METADATA, images)
    assert list(tmp_path.iterdir()) == []


def test_failure_leaves_the_old_file(
    network: nn.Module, images: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "net.onnx").write_bytes(b"old")
    monkeypatch.setattr(module, "largest_difference", lambda *_: float("nan"))
    with pytest.raises(ExportFailed):
        export(network, SPACE.input_shape, tmp_path / "net.onnx", METADATA, images)
    assert (tmp_path / "net.onnx").read_bytes() == b"old"
