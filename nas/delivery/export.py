"""ONNX files for delivery: exported by PyTorch, checked, and compared with what was trained."""

import json
import logging
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from torch import nn

from latency.emit import explained
from latency.files import write_bytes
from nas.training.data import Dataset, Split, batches
from nas.training.train import EVALUATION_BATCH
from search_spaces.block import Shape

# ONNX Runtime fuses and reorders float32 sums; class scores of trained networks then differ in the last digits.
TOLERANCE = 1e-3


class ExportFailed(RuntimeError):
    """The exported file does not compute what the network computes."""


def export(
    network: nn.Module,
    input_shape: Shape,
    path: Path,
    metadata: dict[str, object],
    images: torch.Tensor,
    batch: int = 1,
) -> float:
    """Write ``network`` in evaluation mode to ``path`` as ONNX and compare both on ``images``.

    The file takes ``batch`` images (batch, C, H, W), float32 and normalised, as ``input`` and gives class scores
    (batch, classes) as ``scores``. ``metadata`` is stored in the file as JSON texts.

    Returns:
        The largest absolute difference of the scores.

    Raises:
        ExportFailed: the file is no valid ONNX, or the scores differ by more than ``TOLERANCE`` and than float32
            explains.
    """
    network, images = network.cpu().eval(), images.contiguous()
    model = _exported(network, (batch, *input_shape))
    onnx.helper.set_model_props(model, {key: json.dumps(value) for key, value in metadata.items()})
    try:
        onnx.checker.check_model(model, full_check=True)
    except onnx.checker.ValidationError as error:
        raise ExportFailed(f"the exported network is no valid ONNX: {error}") from None
    content = model.SerializeToString()
    difference = largest_difference(network, content, images)
    if not difference <= TOLERANCE and not difference <= _largest_score(network, images) * explained(network, images):
        raise ExportFailed(f"PyTorch and ONNX Runtime differ by {difference:.1e}, more than {TOLERANCE:.0e}")
    write_bytes(path, content)
    return difference


def _largest_score(network: nn.Module, images: torch.Tensor) -> float:
    with torch.no_grad():
        return float(network(images).abs().max())


def _exported(network: nn.Module, input_shape: tuple[int, ...]) -> onnx.ModelProto:
    chatty = logging.getLogger("torch.onnx")
    level = chatty.level
    chatty.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                network, (torch.zeros(*input_shape),), dynamo=True, verbose=False,
                input_names=["input"], output_names=["scores"],
            )  # fmt: skip
    finally:
        chatty.setLevel(level)
    assert program is not None
    return program.model_proto


class ModelScores:
    """The class scores that an ONNX file gives; the file's own batch decides how many images it takes at a time."""

    def __init__(self, content: bytes) -> None:
        self._session = ort.InferenceSession(content, providers=["CPUExecutionProvider"])
        self._batch = int(self._session.get_inputs()[0].shape[0])

    def __call__(self, images: torch.Tensor) -> NDArray[np.float32]:
        """Map images (N, C, H, W) to scores (N, classes)."""
        found = []
        for part in images.split(self._batch):
            missing = self._batch - len(part)  # a last batch that is not full
            full = torch.cat([part, part[-1:].expand(missing, *part.shape[1:])]) if missing else part
            (scores,) = self._session.run(["scores"], {"input": full.contiguous().numpy()})
            found.append(scores[: len(part)])
        return np.concatenate(found)


def largest_difference(network: nn.Module, content: bytes, images: torch.Tensor) -> float:
    """Return the largest absolute difference of PyTorch's and ONNX Runtime's class scores on ``images``."""
    with torch.no_grad():
        expected = network.cpu().eval()(images.contiguous()).numpy()
    return float(np.abs(ModelScores(content)(images) - expected).max())


def file_accuracy(content: bytes, split: Split, data: Dataset) -> float:
    """Return the share of ``split`` that an ONNX file classifies rightly, in [0, 1]."""
    scores = ModelScores(content)
    parts = batches(split, data.mean, data.std, EVALUATION_BATCH)
    right = sum(int((scores(images).argmax(1) == labels.numpy()).sum()) for images, labels in parts)
    return right / len(split)


def file_metadata(architecture: str, data: Dataset) -> dict[str, object]:
    """Return what a user of the file needs: the classes, and how an image becomes its input."""
    channels, height, width = data.input_shape
    steps = (
        f"{'RGB' if channels == 3 else 'gray'}, stretched to {width} x {height} px, scaled to [0, 1], (x - mean) / std"
    )
    return {
        "architecture": architecture,
        "classes": list(data.classes),
        "preprocessing": steps,
        "mean": list(data.mean),
        "std": list(data.std),
    }
