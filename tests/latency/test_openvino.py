"""The engine OpenVINO: computes what ONNX Runtime computes, in the calling thread, in bf16 only where there is bf16."""

import gc
import importlib.util
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from measuring_jobs import MODELS, job, matmul, onnx_file, write_models
from onnx import TensorProto

from latency import host, runner
from latency.device import Device
from latency.host import Connection, fingerprint
from latency.measure import company
from latency.runner import QUANTITIES, Refused, describe, measure
from search_spaces.errors import InputError

needs_openvino = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="OpenVINO is not installed: pip install '.[openvino]'"
)


@pytest.fixture(autouse=True)
def collecting() -> Iterator[None]:
    yield
    gc.enable()  # which measuring switches off


def request(precision: str, models: dict[str, bytes], **changes: object) -> dict[str, object]:
    return job(models, engine="openvino", precision=precision, **changes)


def skip_without(precision: str) -> None:
    try:
        describe("openvino", "", precision)
    except Refused as error:
        pytest.skip(error.args[1])


def outputs(run: runner.Run) -> np.ndarray:
    """Return the one output of a model, whatever the engine calls it."""
    result = run()
    return np.asarray(result[0])  # type: ignore[index]


@needs_openvino
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("bf16", 0.05)])
def test_agrees_with_onnx_runtime(precision: str, tolerance: float, tmp_path: Path) -> None:
    skip_without(precision)
    write_models(tmp_path, {"net": company()[0]})
    expected = outputs(runner._load(job(["net"]), tmp_path, "net"))
    found = outputs(runner._load(request(precision, {"net": b""}), tmp_path, "net"))
    assert expected.shape == found.shape == (1, 1000)
    difference = np.abs(found - expected).max() / np.abs(expected).max()
    assert difference < tolerance
    assert (difference > 1e-4) == (precision == "bf16")


@needs_openvino
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_one_thread_is_the_calling_one(precision: str, tmp_path: Path) -> None:
    skip_without(precision)
    models = {f"{i}": content for i, content in enumerate(company()[::4])}
    write_models(tmp_path, models)
    rows: list[dict[str, list[float]]] = []
    measure(request(precision, models, end_round=12, sweep_bytes=2**24), tmp_path, rows.append)
    for cpu, wall in (("cold_cpu_ms", "cold_wall_ms"), ("steady_cpu_ms", "steady_wall_ms")):
        shares = [np.percentile([row[q] for row in rows], 20, axis=0) for q in (cpu, wall)]
        assert (shares[0] > 0.5 * shares[1]).all()  # next to nothing where other threads compute
    assert Device("openvino", precision=precision).quantity == "cold_cpu_ms"


@needs_openvino
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (matmul(8, rows="batch"), "an input has the shape"),
        (b"no model", "odd: "),
        (onnx_file("Frobnicate", [2], TensorProto.FLOAT), "Frobnicate"),
    ],
)
def test_models_that_cannot_be_measured(content: bytes, message: str, tmp_path: Path) -> None:
    write_models(tmp_path, {"odd": content})
    with pytest.raises(Refused, match=message) as caught:
        runner._load(request("fp32", {"odd": b""}), tmp_path, "odd")
    assert "\n" not in caught.value.args[1]


@needs_openvino
def test_reports_nothing_to_its_maker() -> None:
    runner._imported("openvino")
    assert sys.modules["openvino_telemetry"] is None


@needs_openvino
@pytest.mark.parametrize("name", ["openvino", "openvino:bf16", "openvino:threads=2"])
def test_as_a_device(name: str, tmp_path: Path) -> None:
    device = Device.parse(name)
    skip_without(device.precision)
    facts = fingerprint(device)
    assert facts["runtime"].startswith("openvino 20") and "provider" not in facts
    with Connection(device, tmp_path) as connection:
        connection.send(MODELS)
        rows = list(connection.rounds(request(device.precision, MODELS, threads=device.threads)))
    assert [row["round"] for row in rows] == [0, 1, 2]
    assert all(len(row[quantity]) == len(MODELS) for row in rows for quantity in QUANTITIES)


def pretend(monkeypatch: pytest.MonkeyPatch, *capabilities: str) -> None:
    core = types.SimpleNamespace(get_property=lambda device, name: list(capabilities))
    fake = types.SimpleNamespace(Core=lambda: core, __version__="2026.4.1-22982-abc")
    monkeypatch.setitem(sys.modules, "openvino", fake)
    monkeypatch.setitem(sys.modules, "openvino_telemetry", None)


def test_bf16_needs_a_processor_that_has_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pretend(monkeypatch, "FP32", "INT8")
    assert describe("openvino", "", "fp32")["runtime"] == "openvino 2026.4.1"
    write_models(tmp_path, MODELS)
    for ask in (lambda: describe("openvino", "", "bf16"), lambda: measure(request("bf16", MODELS), tmp_path, print)):
        with pytest.raises(Refused, match=r"no bf16 instructions \(AVX512-BF16 or AMX\)"):
            ask()
    pretend(monkeypatch, "FP32", "BF16")
    describe("openvino", "", "bf16")


def test_a_machine_without_openvino(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "openvino.py").write_text("raise ImportError('not here')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    host._described.cache_clear()
    with pytest.raises(
        InputError, match=r"device openvino: .* cannot import openvino \(not here\); install it for that Python"
    ):
        fingerprint(Device("openvino"))
