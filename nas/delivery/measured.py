"""Finalists measured on a device; what was measured is kept."""

from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from latency.device import Device
from latency.files import read_sealed, sha256, utc_now, write_sealed
from latency.host import fingerprint
from latency.measure import Measured, Noise, Progress, Protocol, forget, latency_of, measure

SCHEMA_VERSION = 2
# Whole networks are few, so they are measured more often than the blocks of a table.
PROTOCOL = Protocol(rounds=40, calls=2, most_rounds=80)


class FileLatency(BaseModel):
    """The latency (ms) of one model: cold with its 90 % interval, and in steady state."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ms: float
    low: float
    high: float
    steady_ms: float

    @property
    def measured(self) -> Measured:
        """The cold latency."""
        return Measured(self.ms, self.low, self.high)


class Measurement(BaseModel):
    """Models measured together on one device: which files (name -> SHA-256), how, when, and what came out."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    models: dict[str, str]
    fingerprint: dict[str, str]
    runs: int
    noise: str
    protocol: dict[str, int | float]
    measured_at: str
    latency: dict[str, FileLatency]


def measure_kept(path: Path, device: Device, models: Mapping[str, bytes], progress: Progress) -> Measurement:
    """Measure ONNX models (name -> file content) together, by the same protocol as the table, and keep it in ``path``.

    What ``path`` holds is returned as it is if these very models were measured on this device.
    """
    digests = {name: sha256(content) for name, content in models.items()}
    if path.exists():
        kept = Measurement.model_validate(read_sealed(path, SCHEMA_VERSION, "measurement"))
        if kept.models == digests and kept.fingerprint == fingerprint(device):
            return kept
    journal = path.with_suffix(".partial.jsonl")
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = measure(device, models, PROTOCOL, journal, progress)
    latency = {}
    for name in models:
        cold, steady_ms = latency_of(samples, device.quantity, name)
        latency[name] = FileLatency(ms=cold.ms, low=cold.low, high=cold.high, steady_ms=steady_ms)
    noise = Noise.of(samples, device.quantity)
    measurement = Measurement(
        models=digests, fingerprint=fingerprint(device), runs=noise.rounds, noise=noise.text(PROTOCOL),
        protocol=PROTOCOL.record(), measured_at=utc_now(), latency=latency,
    )  # fmt: skip
    write_sealed(path, SCHEMA_VERSION, measurement.model_dump(mode="json"))
    forget(journal)
    return measurement
