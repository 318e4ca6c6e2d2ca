"""``nas measure``: files on devices, as tables and JSON, certified and verified."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from measuring_jobs import COMPANY, matmul

import nas.cli  # noqa: F401  (registers the commands)
from latency.certificate import Certificate
from latency.device import Device
from latency.files import sha256
from latency.host import fingerprint
from latency.measure import Protocol, Samples
from latency.runner import QUANTITIES
from nas.cli.app import app
from nas.cli.errors import exit_code

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cli:
    """Run ``nas measure`` in a folder with two models, by a short protocol; exit code, output, errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("latency.measure.company", lambda: COMPANY)
    monkeypatch.setattr("nas.cli.measure.PROTOCOL", Protocol(rounds=4, calls=2, most_rounds=4))
    (tmp_path / "a.onnx").write_bytes(matmul(8))
    (tmp_path / "b.onnx").write_bytes(matmul(300))

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = exit_code(lambda: app(["measure", *map(str, arguments)], standalone_mode=False))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Measure nothing; every latency is the first of these milliseconds."""
    ms = [1.0]

    def measure(device: Device, models: Mapping[str, bytes], protocol: Protocol, **_: Any) -> Samples:
        values = ms[0] * np.linspace(1, 1.01, protocol.rounds)
        return {quantity: dict.fromkeys(models, values) for quantity in QUANTITIES}

    monkeypatch.setattr("nas.cli.measure.measure_models", measure)
    return ms


def refused(ran: tuple[int, str, str]) -> str:
    code, _, err = ran
    assert code == 2 and err.count("\n") == 1 and err.startswith("nas: "), err
    return err


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_table_of_files(cli: Cli, tmp_path: Path) -> None:
    code, out, err = cli("a.onnx", "b.onnx")
    assert code == 0 and err == "measuring on cpu ...\n"
    title, head, *rows, host = out.splitlines()
    assert title == "cpu, CPU time" and head.split("  ")[0] == "file" and "90 % interval" in head
    found = {row.split()[0]: float(row.split()[1]) for row in rows}
    assert found["a.onnx"] < found["b.onnx"] and [row.split()[-1] for row in rows] == ["4", "4"]
    assert "host: typical 90 % interval" in host
    assert names(tmp_path) == ["a.onnx", "b.onnx"]


def test_json_of_two_devices(cli: Cli) -> None:
    code, out, _ = cli("a.onnx", "--device", "cpu", "--device", "cpu:threads=2", "--json")
    one, two = (json.loads(line) for line in out.splitlines())
    assert code == 0 and one["file"] == two["file"] == "a.onnx"
    assert (one["quantity"], two["quantity"]) == ("cold_cpu_ms", "cold_wall_ms")
    for row, device in ((one, Device()), (two, Device(threads=2))):
        assert row["device"] == device.name and row["fingerprint"] == fingerprint(device)
        assert 0 < row["measured_ms_low"] <= row["measured_ms"] <= row["measured_ms_high"]
        assert row["steady_ms"] > 0 and row["runs"] == 4 and row["sha256"] == sha256(matmul(8))


def test_certified_and_verified(cli: Cli, clock: list[float], tmp_path: Path) -> None:
    assert cli("a.onnx", "b.onnx", "--device", "cpu", "--device", "cpu:threads=2", "--certify")[0] == 0
    certificates = ["a.certificate.json", "a.cpu-threads=2.certificate.json"]
    assert names(tmp_path)[:3] == [*certificates, "a.onnx"]
    assert Certificate.load(tmp_path / "a.certificate.json").model == "a.onnx"
    for name in certificates:
        code, out, _ = cli("--verify", name)
        assert code == 0 and out.splitlines()[-1] == "the certificate holds" and "+0.0 %" in out
    clock[0] = 1.2
    code, out, err = cli("--verify", certificates[0])
    assert code == 1 and out.splitlines()[-1] == "the certificate does not hold" and "+20.0 %" in out
    assert err == "measuring on cpu ...\n"
    code, out, _ = cli("--verify", certificates[0], "--json")
    row = json.loads(out)
    assert code == 1 and row["holds"] is False
    assert row["measured_ms"] == pytest.approx(1.2 * row["certified"]["measured_ms"])


def test_verified_by_the_real_clock(cli: Cli) -> None:
    assert cli("b.onnx", "--certify")[0] == 0
    code, out, _ = cli("--verify", "b.certificate.json", "--json")
    row = json.loads(out)
    assert code == int(not row["holds"]) and row["measured_ms"] > 0


def test_certificate_of_a_changed_file(cli: Cli, clock: list[float], tmp_path: Path) -> None:
    cli("a.onnx", "--certify")
    (tmp_path / "a.onnx").write_bytes(matmul(9))
    assert "a.onnx has changed since it was certified" in refused(cli("--verify", "a.certificate.json"))
    (tmp_path / "a.onnx").unlink()
    assert "a.onnx does not exist" in refused(cli("--verify", "a.certificate.json"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "name the ONNX files to measure"),
        (["c.onnx"], "c.onnx does not exist"),
        (["a.onnx", "--device", "gpu"], "unknown device"),
        (["a.onnx", "--device", "cpu:int8"], "a.onnx computes in float, cpu:int8 asks for int8"),
        (["a.onnx", "--device", "cpu:batch=2"], "a.onnx: its input has batch 4, cpu:batch=2 asks for 2"),
        (["--verify", "a.onnx"], "certificate a.onnx is damaged: not valid JSON"),
        (["--verify", "a.certificate.json", "a.onnx"], "--verify takes file and device from the certificate"),
        (["--verify", "a.certificate.json", "--certify"], "--verify takes file and device from the certificate"),
    ],
)
def test_mistakes(arguments: list[str], said: str, cli: Cli, tmp_path: Path) -> None:
    assert said in refused(cli(*arguments))
    assert names(tmp_path) == ["a.onnx", "b.onnx"]


def test_nothing_is_written_where_measuring_fails(cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def interrupted(*_: object, **__: object) -> Samples:
        raise KeyboardInterrupt

    monkeypatch.setattr("nas.cli.measure.measure_models", interrupted)
    assert cli("a.onnx", "--certify")[0] == 130
    assert names(tmp_path) == ["a.onnx", "b.onnx"]
