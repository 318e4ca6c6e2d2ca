"""Tiny ONNX models and the jobs that measure them."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper


def onnx_file(operator: str, shape: list[Any], kind: int, *constants: np.ndarray, at: int = 0) -> bytes:
    """Return a model of one operator, the input (its shape, its element type) ``at`` its place among constants."""
    names = [f"constant{i}" for i in range(len(constants))]
    inputs = [*names[:at], "input", *names[at:]]
    graph = helper.make_graph(
        [helper.make_node(operator, inputs, ["output"])],
        "graph",
        [helper.make_tensor_value_info("input", kind, shape)],
        [helper.make_empty_tensor_value_info("output")],
        [numpy_helper.from_array(value, name) for name, value in zip(names, constants, strict=True)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return bytes(model.SerializeToString())


def matmul(size: int, rows: Any = 4) -> bytes:
    weights = np.random.default_rng(size).standard_normal((size, size)).astype(np.float32)
    return onnx_file("MatMul", [rows, size], TensorProto.FLOAT, weights)


COMPANY = tuple(matmul(16 + size) for size in range(12))
"""In the place of the real company, which takes longer to load and to send."""

MODELS = {"small": matmul(8), "middle": matmul(64), "large": matmul(512)}


class Rounds:
    """A ``progress`` that remembers what it was told, and may stop the measurement."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.told: list[tuple[int, int]] = []
        self.stop_after = stop_after

    def __call__(self, done: int, total: int) -> None:
        self.told.append((done, total))
        if done == self.stop_after:
            raise KeyboardInterrupt


def write_models(folder: Path, models: dict[str, bytes]) -> None:
    for name, content in models.items():
        (folder / name).write_bytes(content)


def job(models: Iterable[str] = MODELS, **changes: Any) -> dict[str, Any]:
    """Return what the measuring program is asked: all ``models``, beside the first of them."""
    names = list(models)
    usual = {
        "models": names, "calls": [2] * len(names), "company": names[0], "engine": "onnxruntime",
        "provider": "CPUExecutionProvider", "precision": "fp32", "threads": 1, "first_round": 0, "end_round": 3,
        "seed": 0, "sweep_bytes": 2**16,
    }  # fmt: skip
    return {**usual, **changes}
