"""Certificates: written and read back whole, tied to file, device and protocol, and when a new measurement confirms."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from measuring_jobs import matmul

from latency.certificate import Certificate
from latency.device import Device
from latency.files import sha256, write_sealed
from latency.host import fingerprint
from latency.measure import Measured, Protocol, Samples
from latency.runner import QUANTITIES
from search_spaces.errors import InputError

PROTOCOL = Protocol(rounds=8, calls=2, most_rounds=8)


def samples(cold_ms: float = 1.0) -> Samples:
    rounds = np.linspace(1, 1.04, 8)
    scale = {"cold_cpu_ms": 1.0, "cold_wall_ms": 2.0, "steady_cpu_ms": 0.5, "steady_wall_ms": 0.8}
    return {quantity: {"model": cold_ms * scale[quantity] * rounds} for quantity in QUANTITIES}


def certificate(device: Device = Device(), protocol: Protocol = PROTOCOL) -> Certificate:
    return Certificate.of("model.onnx", matmul(8), device, samples(), "model", protocol)


def test_what_it_says() -> None:
    found = certificate()
    assert found.model == "model.onnx" and found.sha256 == sha256(matmul(8))
    assert found.device == "cpu" and found.quantity == "cold_cpu_ms" and found.fingerprint == fingerprint(Device())
    fastest = np.linspace(1, 1.04, 8)[:4].mean()
    assert found.measured_ms == pytest.approx(fastest) and found.steady_ms == pytest.approx(0.5 * fastest)
    assert found.measured_ms_low < found.measured_ms < found.measured_ms_high
    assert found.predicted_ms is None and found.runs == 8 and found.protocol == PROTOCOL.record()
    assert abs(datetime.fromisoformat(found.measured_at) - datetime.now(UTC)) < timedelta(seconds=10)
    assert found.versions.keys() == {"nas"}


def test_clock_and_steady_state() -> None:
    threads = certificate(Device(threads=2))
    assert threads.quantity == "cold_wall_ms" and threads.steady_ms == pytest.approx(0.4 * threads.measured_ms)
    assert certificate(protocol=Protocol(rounds=8, calls=1)).steady_ms is None


def test_saved_and_loaded(tmp_path: Path) -> None:
    path = tmp_path / "model.certificate.json"
    certificate().save(path)
    assert Certificate.load(path) == certificate().model_copy(
        update={"measured_at": Certificate.load(path).measured_at}
    )
    written = json.loads(path.read_text())
    assert written["schema_version"] == 1 and written["sha256"] == sha256(matmul(8))


def test_files_that_are_no_certificates(tmp_path: Path) -> None:
    path = tmp_path / "model.certificate.json"
    with pytest.raises(InputError, match=r"certificate .* does not exist"):
        Certificate.load(path)
    certificate().save(path)
    path.write_text(path.read_text().replace('"runs": 8', '"runs": 9'))
    with pytest.raises(InputError, match=r"checksum does not match; .*--certify"):
        Certificate.load(path)
    write_sealed(path, 1, {"model": "model.onnx"}, "seal")
    with pytest.raises(InputError, match=r"is damaged: .*--certify"):
        Certificate.load(path)
    write_sealed(path, 2, certificate().model_dump(mode="json"), "seal")
    with pytest.raises(InputError, match="schema version 2"):
        Certificate.load(path)


def test_its_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        certificate().content(tmp_path)
    (tmp_path / "model.onnx").write_bytes(matmul(8))
    assert certificate().content(tmp_path) == matmul(8)
    (tmp_path / "model.onnx").write_bytes(matmul(9))
    with pytest.raises(InputError, match=r"model\.onnx has changed since it was certified; .*--certify"):
        certificate().content(tmp_path)


@pytest.mark.parametrize("device", [Device(), Device(threads=2, batch=4)])
def test_its_device(device: Device) -> None:
    found = certificate(device)
    assert found.same_device() == device
    for key in ("cpu", "runtime"):
        other = found.model_copy(update={"fingerprint": {**found.fingerprint, key: "abacus"}})
        with pytest.raises(InputError, match=rf"on another device: {key} was 'abacus', here it is '"):
            other.same_device()
    lacking = {key: value for key, value in found.fingerprint.items() if key != "cores"}
    with pytest.raises(InputError, match="cores was 'unknown'"):
        found.model_copy(update={"fingerprint": lacking}).same_device()


def test_its_protocol() -> None:
    found = certificate()
    assert found.same_protocol() == PROTOCOL
    other = found.model_copy(update={"protocol": {**found.protocol, "sweep_bytes": 1}})
    with pytest.raises(InputError, match="another version's protocol"):
        other.same_protocol()


@pytest.mark.parametrize(
    ("ms", "width", "holds"),
    [(1.0, 0.01, True), (1.04, 0.001, True), (0.96, 0.001, True), (1.2, 0.01, False), (0.8, 0.01, False),
     (1.2, 0.25, True), (0.8, 0.25, True)],
)  # fmt: skip
def test_holds(ms: float, width: float, holds: bool) -> None:
    values = {"measured_ms": 1.0, "measured_ms_low": 0.99, "measured_ms_high": 1.01}
    found, text = certificate().model_copy(update=values).holds(Measured(ms, ms - width, ms + width))
    assert found is holds
    assert text.startswith("certified 1 ms (0.99-1.01), now ") and text.endswith(f"{100 * (ms - 1):+.1f} %")
