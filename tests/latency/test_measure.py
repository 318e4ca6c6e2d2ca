"""Measuring: one sample per round, resumed where it stopped, and a clear word when the program dies."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from latency import measure as module
from latency import runner
from latency.device import DEVICES, Device
from latency.emit import to_onnx
from latency.files import sha256
from latency.measure import QUANTITIES, Measured, MeasuringFailed, Protocol, forget, measure

CPU = DEVICES["cpu"]
PROTOCOL = Protocol(rounds=4, calls=2)


@pytest.fixture(scope="module")
def models() -> dict[str, bytes]:
    sizes = {"small": 1, "middle": 8, "large": 64}
    return {name: to_onnx(nn.Conv2d(size, size, 3, padding=1), (size, 8, 8)) for name, size in sizes.items()}


class Rounds:
    """A ``progress`` that remembers what it was told, and may stop the measurement."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.told: list[tuple[int, int]] = []
        self.stop_after = stop_after

    def __call__(self, done: int, total: int) -> None:
        self.told.append((done, total))
        if done == self.stop_after:
            raise KeyboardInterrupt


def test_one_sample_per_round(models: dict[str, bytes]) -> None:
    progress = Rounds()
    samples = measure(CPU, models, PROTOCOL, progress=progress)
    assert progress.told == [(done, 4) for done in range(5)]
    assert tuple(samples) == QUANTITIES
    for by_name in samples.values():
        assert list(by_name) == list(models)
        assert all(values.shape == (4,) and (values > 0).all() for values in by_name.values())
    medians = [np.median(samples["cold_ms"][name]) for name in ("small", "large")]
    assert medians[0] < medians[1]


def test_resumes_after_the_last_finished_round(models: dict[str, bytes], tmp_path: Path) -> None:
    journal = tmp_path / "deep" / "journal"
    with pytest.raises(KeyboardInterrupt):
        measure(CPU, models, PROTOCOL, journal, Rounds(stop_after=3))
    kept = journal.read_text().splitlines()[1:]
    assert [json.loads(line)["round"] for line in kept] == [0, 1, 2]
    progress = Rounds()
    samples = measure(CPU, models, PROTOCOL, journal, progress)
    assert progress.told == [(3, 4), (4, 4)]
    assert len(samples["cold_ms"]["small"]) == 4
    for i, name in enumerate(models):
        assert samples["cold_ms"][name][:3].tolist() == [json.loads(line)["cold_ms"][i] for line in kept]
    assert [json.loads(line)["round"] for line in journal.read_text().splitlines()[1:]] == [0, 1, 2, 3]


def finished(models: dict[str, bytes], journal: Path) -> list[str]:
    measure(CPU, models, PROTOCOL, journal)
    return journal.read_text().splitlines(keepends=True)


def test_finished_journal_needs_no_measuring(
    models: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = measure(CPU, models, PROTOCOL, tmp_path / "journal")
    monkeypatch.setattr(module, "_run", lambda order: pytest.fail("measured again"))
    again = measure(CPU, models, PROTOCOL, tmp_path / "journal")
    for quantity in QUANTITIES:
        assert all(np.array_equal(first[quantity][name], again[quantity][name]) for name in models)


@pytest.mark.parametrize("cut", [1, 20, -1])
def test_torn_last_line_is_measured_again(cut: int, models: dict[str, bytes], tmp_path: Path) -> None:
    lines = finished(models, tmp_path / "journal")
    (tmp_path / "journal").write_text("".join(lines[:-1]) + lines[-1][:cut])
    progress = Rounds()
    measure(CPU, models, PROTOCOL, tmp_path / "journal", progress)
    assert progress.told == [(3, 4), (4, 4)]
    again = (tmp_path / "journal").read_text().splitlines(keepends=True)
    assert again[:-1] == lines[:-1] and json.loads(again[-1])["round"] == 3


@pytest.mark.parametrize("kept", ["", "{", "not a journal\n{}\n"])
def test_what_is_no_journal_is_started_anew(kept: str, models: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "journal").write_text(kept)
    progress = Rounds()
    measure(CPU, models, Protocol(rounds=1, calls=1), tmp_path / "journal", progress)
    assert progress.told == [(0, 1), (1, 1)]


@pytest.mark.parametrize("other", ["models", "names", "rounds", "calls", "seed", "device"])
def test_journal_of_another_job_is_started_anew(other: str, models: dict[str, bytes], tmp_path: Path) -> None:
    finished(models, tmp_path / "journal")
    one = Protocol(rounds=4, calls=2)
    jobs: dict[str, tuple[Device, dict[str, bytes], Protocol]] = {
        "models": (CPU, {**models, "small": models["middle"]}, one),
        "names": (CPU, {f"{name}'": content for name, content in models.items()}, one),
        "rounds": (CPU, models, Protocol(rounds=5, calls=2)),
        "calls": (CPU, models, Protocol(rounds=4, calls=1)),
        "seed": (CPU, models, Protocol(rounds=4, calls=2, seed=1)),
        "device": (Device("other"), models, one),
    }
    device, changed, protocol = jobs[other]
    progress = Rounds()
    measure(device, changed, protocol, tmp_path / "journal", progress)
    assert progress.told[0] == (0, protocol.rounds) and progress.told[-1][0] == protocol.rounds


def test_forget(tmp_path: Path) -> None:
    (tmp_path / "journal").write_text("x")
    forget(tmp_path / "journal")
    forget(tmp_path / "journal")
    assert not (tmp_path / "journal").exists()


def test_corrupt_model_is_told_with_the_last_message(models: dict[str, bytes], tmp_path: Path) -> None:
    with pytest.raises(MeasuringFailed, match=r"ended early: .*INVALID_PROTOBUF") as caught:
        measure(CPU, {**models, "corrupt": b"no model"}, PROTOCOL, tmp_path / "journal")
    assert "\n" not in str(caught.value)


def failing(monkeypatch: pytest.MonkeyPatch, path: Path, program: str) -> None:
    path.write_text(program)
    monkeypatch.setattr(runner, "__file__", str(path))


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("import sys; input(); sys.exit('out of memory')", "out of memory"),
        ("input()", "no message"),
        ("import os, signal; input(); os.kill(os.getpid(), signal.SIGKILL)", "no message"),
    ],
)
def test_program_that_dies(
    program: str, message: str, models: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, tmp_path / "program.py", program)
    with pytest.raises(MeasuringFailed, match=message):
        measure(CPU, models, PROTOCOL)


def test_rounds_before_the_death_are_kept(
    models: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = {"round": 0, **{quantity: [1.0, 2.0, 3.0] for quantity in QUANTITIES}}
    with monkeypatch.context() as patch:
        failing(
            patch,
            tmp_path / "program.py",
            f"input(); print({json.dumps(json.dumps(row))}); raise SystemExit('x')",
        )
        with pytest.raises(MeasuringFailed):
            measure(CPU, models, PROTOCOL, tmp_path / "journal")
    progress = Rounds()
    samples = measure(CPU, models, PROTOCOL, tmp_path / "journal", progress)
    assert progress.told[0] == (1, 4)
    assert [samples["cold_ms"][name][0] for name in models] == [1, 2, 3]


def test_journal_names_models_by_content(models: dict[str, bytes], tmp_path: Path) -> None:
    header = json.loads(finished(models, tmp_path / "journal")[0])
    assert header["models"] == [sha256(content) for content in models.values()]


def test_program_ends_when_its_input_closes(models: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "0.onnx").write_bytes(models["small"])
    job = {
        "models": [str(tmp_path / "0.onnx")], "company": str(tmp_path / "0.onnx"), "first_round": 0,
        "rounds": 10**9, "calls": 1, "seed": 0, "displace_bytes": 4096, "threads": 1, "provider": CPU.provider,
    }  # fmt: skip
    program = subprocess.Popen(
        [sys.executable, runner.__file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert program.stdin and program.stdout
    program.stdin.write(json.dumps(job) + "\n")
    program.stdin.flush()
    assert json.loads(program.stdout.readline())["round"] == 0
    program.stdin.close()
    program.stdout.read()
    assert program.wait(timeout=30) != 0


@pytest.mark.parametrize("count", [1, 2, 3, 20])
def test_interval_contains_the_estimate(count: int) -> None:
    for seed in range(30):
        samples = np.random.default_rng(seed).lognormal(size=count)
        measured = Measured.of(samples)
        assert measured.ms == np.percentile(samples, 20)
        assert samples.min() <= measured.low <= measured.ms <= measured.high <= samples.max()
        assert Measured.of(samples) == measured


def test_interval_covers_the_true_percentile_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    truth = -np.log(0.8)  # of an exponential distribution
    intervals = [Measured.of(rng.exponential(size=40)) for _ in range(300)]
    assert 0.8 < np.mean([interval.low <= truth <= interval.high for interval in intervals]) < 0.96


def test_estimate_does_not_mind_a_disturbed_half() -> None:
    quiet = np.full(20, 2.0)
    disturbed = np.where(np.arange(20) % 2, 50.0, quiet)
    assert Measured.of(disturbed).ms == Measured.of(quiet).ms == 2
