"""What was measured of finalists is kept, and measured again when a model or the device is another one."""

import json
from pathlib import Path

import numpy as np
import pytest
from measuring_jobs import COMPANY, MODELS, Rounds, matmul

from latency import measure as measuring
from latency.device import Device
from latency.files import sha256
from latency.host import fingerprint
from latency.measure import Measured, Protocol, Samples
from latency.runner import QUANTITIES
from nas.delivery import measured as module
from nas.delivery.measured import SCHEMA_VERSION, measure_kept
from search_spaces.errors import InputError

CPU = Device()
SHORT = Protocol(rounds=3, calls=2, most_rounds=3)


@pytest.fixture(autouse=True)
def short_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PROTOCOL", SHORT)
    monkeypatch.setattr(measuring, "SWEEP_BYTES", 2**20)
    monkeypatch.setattr(measuring, "company", lambda: COMPANY)


def test_measured_here_and_kept(tmp_path: Path) -> None:
    steps, path = Rounds(), tmp_path / "deep" / "cpu.json"
    found = measure_kept(path, CPU, MODELS, steps)
    assert steps.told == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert found.models == {name: sha256(content) for name, content in MODELS.items()}
    assert found.fingerprint == fingerprint(CPU) and found.protocol == SHORT.record() and found.runs == 3
    for latency in found.latency.values():
        assert 0 < latency.low <= latency.ms <= latency.high and latency.steady_ms > 0
    assert [kept.name for kept in path.parent.iterdir()] == ["cpu.json"]
    assert measure_kept(path, CPU, MODELS, steps) == found and len(steps.told) == 4


def made_up() -> Samples:
    rounds = {"small": [1.0, 2.0, 3.0, 4.0], "large": [8.0, 6.0, 7.0, 5.0]}
    factors = dict(zip(QUANTITIES, (1.0, 1.5, 0.5, 0.75), strict=True))
    return {q: {name: f * np.array(ms) for name, ms in rounds.items()} for q, f in factors.items()}


@pytest.mark.parametrize(("device", "cold", "steady"), [("cpu", 1.0, 0.5), ("cpu:threads=2", 1.5, 0.75)])
def test_numbers_are_those_of_the_device_s_clock(
    device: str, cold: float, steady: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "measure", lambda *_, **__: made_up())
    found = measure_kept(tmp_path / "x.json", Device.parse(device), {"small": b"s", "large": b"l"}, Rounds())
    # Half of the four rounds count: the faster ones.
    assert {name: latency.ms for name, latency in found.latency.items()} == {"small": 1.5 * cold, "large": 5.5 * cold}
    assert {name: one.steady_ms for name, one in found.latency.items()} == {
        "small": 1.5 * steady,
        "large": 5.5 * steady,
    }
    assert found.runs == 4 and found.latency["small"].measured == Measured.of(cold * np.arange(1.0, 5.0))
    assert found.noise.startswith("a noisy host: typical 90 % interval")


@pytest.mark.parametrize("change", ["content", "name", "one more", "one less"])
def test_other_models_are_measured_anew(change: str, tmp_path: Path) -> None:
    path = tmp_path / "cpu.json"
    first = measure_kept(path, CPU, MODELS, Rounds())
    changed = {
        "content": {**MODELS, "small": matmul(9)},
        "name": {"tiny": MODELS["small"], **{k: v for k, v in MODELS.items() if k != "small"}},
        "one more": {**MODELS, "new": matmul(9)},
        "one less": {"small": MODELS["small"]},
    }[change]
    steps = Rounds()
    again = measure_kept(path, CPU, changed, steps)
    assert len(steps.told) == 4 and list(again.latency) == list(changed) and again != first


def test_order_of_the_models_does_not_matter(tmp_path: Path) -> None:
    first = measure_kept(tmp_path / "cpu.json", CPU, MODELS, Rounds())
    steps = Rounds()
    assert measure_kept(tmp_path / "cpu.json", CPU, dict(reversed(MODELS.items())), steps) == first
    assert steps.told == []


def test_another_device_is_measured_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "cpu.json"
    measure_kept(path, CPU, MODELS, Rounds())
    monkeypatch.setattr(module, "fingerprint", lambda device: {**fingerprint(device), "runtime": "newer"})
    steps = Rounds()
    assert measure_kept(path, CPU, MODELS, steps).fingerprint["runtime"] == "newer" and len(steps.told) == 4
    assert measure_kept(path, CPU, MODELS, steps).runs == 3 and len(steps.told) == 4


def test_interrupted_measurement_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "cpu.json"
    with pytest.raises(KeyboardInterrupt):
        measure_kept(path, CPU, MODELS, Rounds(stop_after=2))
    assert not path.exists() and len(list(tmp_path.iterdir())) == 1
    steps = Rounds()
    measure_kept(path, CPU, MODELS, steps)
    assert steps.told == [(2, 3), (3, 3)]
    assert [kept.name for kept in tmp_path.iterdir()] == ["cpu.json"]


def test_damaged_measurements_are_an_input_error(tmp_path: Path) -> None:
    path = tmp_path / "cpu.json"
    measure_kept(path, CPU, MODELS, Rounds())
    content = json.loads(path.read_bytes())
    path.write_text(json.dumps({**content, "runs": 4}))
    with pytest.raises(InputError, match="checksum"):
        measure_kept(path, CPU, MODELS, Rounds())
    path.write_text(json.dumps({**content, "schema_version": 1}))
    with pytest.raises(InputError, match=f"has schema version 1; this version reads {SCHEMA_VERSION}"):
        measure_kept(path, CPU, MODELS, Rounds())
