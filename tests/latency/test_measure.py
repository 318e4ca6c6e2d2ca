"""Measuring: one sample per round, resumed where it stopped, and as many rounds as the machine's noise asks for."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from measuring_jobs import COMPANY, MODELS, Rounds, matmul
from numpy.typing import NDArray

from latency import host
from latency import measure as module
from latency.device import Device
from latency.files import sha256
from latency.host import Connection
from latency.measure import (
    FEWEST_MODELS,
    QUANTITIES,
    Measured,
    MeasuringFailed,
    Noise,
    Protocol,
    company,
    forget,
    intervals,
    measure,
    spread_percent,
)
from search_spaces.errors import InputError

CPU = Device()
PROTOCOL = Protocol(rounds=4, calls=2, most_rounds=4)
Row = dict[str, Any]


@pytest.fixture(autouse=True)
def small_surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SWEEP_BYTES", 2**20)
    monkeypatch.setattr(module, "company", lambda: COMPANY)


def rows_of(journal: Path) -> list[Row]:
    return [json.loads(line) for line in journal.read_text().splitlines()[1:]]


def finished(journal: Path) -> list[str]:
    measure(CPU, MODELS, PROTOCOL, journal)
    return journal.read_text().splitlines(keepends=True)


# --- samples


def test_one_sample_per_round() -> None:
    progress = Rounds()
    samples = measure(CPU, MODELS, PROTOCOL, progress=progress)
    assert progress.told == [(done, 4) for done in range(5)]
    assert tuple(samples) == QUANTITIES
    for by_name in samples.values():
        assert list(by_name) == list(MODELS)
        assert all(values.shape == (4,) and (values > 0).all() for values in by_name.values())
    small, large = (samples["steady_cpu_ms"][name].min() for name in ("small", "large"))
    assert small < large


def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Return a list that will hold the jobs that the device is asked."""
    jobs: list[dict[str, Any]] = []
    rounds = Connection.rounds
    monkeypatch.setattr(Connection, "rounds", lambda self, job: (jobs.append(job), rounds(self, job))[1])
    return jobs


def test_a_few_models_are_measured_in_company(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = asked(monkeypatch)
    two = {"company 0": MODELS["small"], "mine": MODELS["large"]}
    samples = measure(CPU, two, Protocol(rounds=1, calls=3, most_rounds=1))
    names = [f"{sha256(content)}.onnx" for content in (*two.values(), *COMPANY)]
    assert jobs[0]["models"] == names[:12] and jobs[0]["company"] == names[-1]
    assert jobs[0]["calls"] == [3, 3] + [1] * 10
    assert all(list(by_name) == list(two) for by_name in samples.values())


def test_many_models_need_no_company(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = asked(monkeypatch)
    many = {f"m{i}": matmul(8 + i) for i in range(FEWEST_MODELS + 1)}
    measure(CPU, many, Protocol(rounds=1, calls=3, most_rounds=1), cold_only={"m0", "m12"})
    assert jobs[0]["models"] == [f"{sha256(content)}.onnx" for content in many.values()]
    assert jobs[0]["calls"] == [1] + [3] * 11 + [1]


def test_company_is_the_same_everywhere() -> None:
    first = company()
    company.cache_clear()
    assert company() == first and len(set(first)) == FEWEST_MODELS
    assert 0.5e6 < len(first[0]) < len(first[-1]) < 5e6


def test_models_of_the_same_content_share_a_file() -> None:
    samples = measure(CPU, {"one": MODELS["small"], "two": MODELS["small"]}, PROTOCOL)
    assert not np.array_equal(samples["cold_cpu_ms"]["one"], samples["cold_cpu_ms"]["two"])


def test_a_refused_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^device cpu: mine: .*Load model from mine failed.*$") as caught:
        measure(CPU, {**MODELS, "mine": b"no model"}, PROTOCOL, tmp_path / "journal")
    assert "\n" not in str(caught.value)


# --- the journal


def test_resumes_after_the_last_finished_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = tmp_path / "deep" / "journal"
    with pytest.raises(KeyboardInterrupt):
        measure(CPU, MODELS, PROTOCOL, journal, Rounds(stop_after=3))
    kept = rows_of(journal)
    assert [row["round"] for row in kept] == [0, 1, 2]
    progress, jobs = Rounds(), asked(monkeypatch)
    samples = measure(CPU, MODELS, PROTOCOL, journal, progress)
    assert progress.told == [(3, 4), (4, 4)] and jobs[0]["first_round"] == 3
    assert rows_of(journal)[:3] == kept and rows_of(journal)[3]["round"] == 3
    expected = module._samples(rows_of(journal), list(MODELS))
    assert all(np.array_equal(samples[q][name], expected[q][name]) for q in QUANTITIES for name in MODELS)


def test_finished_journal_needs_no_measuring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = measure(CPU, MODELS, PROTOCOL, tmp_path / "journal")
    monkeypatch.setattr(module, "Connection", lambda device: pytest.fail("measured again"))
    again = measure(CPU, MODELS, PROTOCOL, tmp_path / "journal")
    assert all(np.array_equal(first[q][name], again[q][name]) for q in QUANTITIES for name in MODELS)


@pytest.mark.parametrize("cut", [1, 20, -1])
def test_torn_last_line_is_measured_again(cut: int, tmp_path: Path) -> None:
    lines = finished(tmp_path / "journal")
    (tmp_path / "journal").write_text("".join(lines[:-1]) + lines[-1][:cut])
    progress = Rounds()
    measure(CPU, MODELS, PROTOCOL, tmp_path / "journal", progress)
    assert progress.told == [(3, 4), (4, 4)]
    again = (tmp_path / "journal").read_text().splitlines(keepends=True)
    assert again[:-1] == lines[:-1] and json.loads(again[-1])["round"] == 3


@pytest.mark.parametrize("kept", [b"", b"{", b"not a journal\n{}\n", b"\xff\x00\n"])
def test_what_is_no_journal_is_started_anew(kept: bytes, tmp_path: Path) -> None:
    (tmp_path / "journal").write_bytes(kept)
    progress = Rounds()
    measure(CPU, MODELS, Protocol(rounds=1, calls=1, most_rounds=1), tmp_path / "journal", progress)
    assert progress.told == [(0, 1), (1, 1)]


@pytest.mark.parametrize("other", ["models", "calls", "seed", "device", "cold_only"])
def test_journal_of_another_job_is_started_anew(other: str, tmp_path: Path) -> None:
    finished(tmp_path / "journal")
    device = Device(threads=2) if other == "device" else CPU
    models = {**MODELS, "small": MODELS["middle"]} if other == "models" else MODELS
    changed = {"calls": 1, "seed": 1}
    protocol = Protocol(
        **{"rounds": 4, "calls": 2, "most_rounds": 4, **{k: v for k, v in changed.items() if k == other}}
    )
    progress = Rounds()
    cold_only = ["small"] if other == "cold_only" else []
    measure(device, models, protocol, tmp_path / "journal", progress, cold_only)
    assert progress.told[0] == (0, 4) and progress.told[-1] == (4, 4)


def test_more_rounds_go_on_from_the_kept_ones(tmp_path: Path) -> None:
    lines = finished(tmp_path / "journal")
    progress = Rounds()
    measure(CPU, MODELS, Protocol(rounds=7, calls=2, most_rounds=7), tmp_path / "journal", progress)
    assert progress.told == [(4, 7), (5, 7), (6, 7), (7, 7)]
    assert (tmp_path / "journal").read_text().splitlines(keepends=True)[:5] == lines


def test_a_name_is_no_part_of_the_job(tmp_path: Path) -> None:
    finished(tmp_path / "journal")
    progress = Rounds()
    renamed = {f"{name}'": content for name, content in MODELS.items()}
    samples = measure(CPU, renamed, PROTOCOL, tmp_path / "journal", progress)
    assert progress.told == [(4, 4)] and list(samples["cold_cpu_ms"]) == list(renamed)


def test_rounds_before_a_death_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host.fingerprint(CPU)
    row = {"round": 0, **{quantity: [float(i) for i in range(12)] for quantity in QUANTITIES}}
    answers = [{"missing": []}, row]
    with monkeypatch.context() as patch:
        (tmp_path / "program.py").write_text(
            f"for x in {list(map(json.dumps, answers))}: print(x)\nraise SystemExit('x')"
        )
        patch.setattr(host.runner, "__file__", str(tmp_path / "program.py"))
        with pytest.raises(MeasuringFailed, match="ended early: x"):
            measure(CPU, MODELS, PROTOCOL, tmp_path / "journal")
    progress = Rounds()
    samples = measure(CPU, MODELS, PROTOCOL, tmp_path / "journal", progress)
    assert progress.told[0] == (1, 4)
    assert [samples["cold_cpu_ms"][name][0] for name in MODELS] == [0, 1, 2]


def test_forget(tmp_path: Path) -> None:
    (tmp_path / "journal").write_text("x")
    forget(tmp_path / "journal")
    forget(tmp_path / "journal")
    assert not (tmp_path / "journal").exists()


# --- as many rounds as it takes


NAMES = ["a", "b", "c", "d"]


def made_up_rows(count: int, spread: float, models: int = 4) -> list[Row]:
    """Return rounds of four models whose samples vary by ``spread``, and of company that varies by much."""
    rng = np.random.default_rng(0)
    values = np.hstack([1 + spread * rng.random((count, models)), 1 + 100 * rng.random((count, 8))])
    steady = {q: [9.0] * 12 for q in QUANTITIES}
    return [{"round": i, **steady, "cold_cpu_ms": row.tolist()} for i, row in enumerate(values)]


def rounds_needed(spread: float, quantity: str = "cold_cpu_ms") -> int:
    protocol = Protocol(rounds=20, most_rounds=60, interval_percent=2)
    rows = made_up_rows(60, spread)
    return next(n for n in range(61) if module._enough(rows[:n], quantity, NAMES, protocol))


def test_rounds_go_on_until_the_intervals_are_narrow() -> None:
    assert rounds_needed(0) == rounds_needed(0.02) == 20
    assert 20 < rounds_needed(0.25) < 60 and rounds_needed(0.25) % 5 == 0
    assert rounds_needed(10) == 60
    assert rounds_needed(10, "cold_wall_ms") == 20


def test_a_fixed_number_of_rounds() -> None:
    rows = made_up_rows(7, 100)
    assert [module._enough(rows[:n], "cold_cpu_ms", NAMES, Protocol(rounds=7, most_rounds=7)) for n in (6, 7)] == [
        False,
        True,
    ]


@pytest.mark.parametrize(("percent", "rounds"), [(1e-9, 14), (1e9, 5)])
def test_measuring_ends_when_it_is_enough(percent: float, rounds: int, tmp_path: Path) -> None:
    protocol = Protocol(rounds=5, calls=1, most_rounds=14, interval_percent=percent)
    progress = Rounds()
    samples = measure(CPU, MODELS, protocol, tmp_path / "journal", progress)
    assert samples["cold_cpu_ms"]["small"].shape == (rounds,)
    assert [row["round"] for row in rows_of(tmp_path / "journal")] == list(range(rounds))
    assert progress.told[:6] == [(done, 5) for done in range(6)] and set(progress.told[6:]) <= {(5, 5)}


# --- from samples to numbers


def slowed(samples: NDArray, share: float) -> NDArray:
    """Return the samples with a share of them three times as slow."""
    return np.where(np.random.default_rng(1).permutation(len(samples)) < share * len(samples), 3 * samples, samples)


def test_the_estimate_does_not_mind_disturbed_samples() -> None:
    samples = np.random.default_rng(0).normal(2, 0.02, 40)
    quiet, disturbed = Measured.of(samples), Measured.of(slowed(samples, 0.45))
    assert disturbed.ms == pytest.approx(quiet.ms, rel=0.02)
    assert disturbed.low == pytest.approx(quiet.low, rel=0.02)
    assert np.mean(slowed(samples, 0.45)) > 1.8 * np.mean(samples)


@pytest.mark.parametrize("count", [1, 2, 3, 20])
def test_interval_contains_the_estimate(count: int) -> None:
    for seed in range(20):
        samples = np.random.default_rng(seed).lognormal(size=count)
        measured = Measured.of(samples)
        kept = np.sort(samples)[: max(1, count // 2)]
        assert measured.ms == pytest.approx(kept.mean())
        assert samples.min() <= measured.low <= measured.high <= samples.max()
        assert Measured.of(samples) == measured


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    truth = 1 - np.log(2)  # the mean of the faster half of an exponential distribution
    low, high = intervals(np.random.default_rng(0).exponential(size=(60, 300)))
    assert 0.8 < np.mean((low <= truth) & (truth <= high)) < 0.97


def test_spread_is_half_the_typical_interval_in_percent() -> None:
    samples = np.random.default_rng(0).normal(1, 0.05, (30, 5)) * [1, 10, 100, 1000, 10000]
    low, high = intervals(samples)
    ms = [Measured.of(column).ms for column in samples.T]
    assert spread_percent(samples) == pytest.approx(np.median(50 * (high - low) / ms))
    assert spread_percent(np.ones((5, 3))) == 0


def made_up_samples(spread: float, held_up: float) -> dict[str, dict[str, NDArray]]:
    rng = np.random.default_rng(0)
    cpu = {f"m{i}": 1 + spread * rng.random(25) for i in range(3)}
    wall = {name: values * (1 + held_up) for name, values in cpu.items()}
    return {"cold_cpu_ms": cpu, "cold_wall_ms": wall}


@pytest.mark.parametrize(
    ("spread", "held_up", "text"),
    [
        (0, 0, "a quiet host: typical 90 % interval +-0.0 % after 25 rounds"),
        (0, 0.05, "a quiet host: typical 90 % interval +-0.0 % after 25 rounds, calls held up by 5 %"),
        (0, 0.25, "a noisy host: typical 90 % interval +-0.0 % after 25 rounds, calls held up by 25 %"),
    ],
)
def test_noise_is_told_in_a_line(spread: float, held_up: float, text: str) -> None:
    assert Noise.of(made_up_samples(spread, held_up), "cold_cpu_ms").text(Protocol()) == text


def test_a_host_of_wide_intervals_is_noisy() -> None:
    samples = made_up_samples(2, 0.5)
    assert Noise.of(samples, "cold_cpu_ms").text(Protocol()).startswith("a noisy host")
    of_wall = Noise.of(samples, "cold_wall_ms")  # several threads compute: waiting is no sign of noise
    assert of_wall.held_up_percent == 0 and of_wall.rounds == 25
    assert of_wall.interval_percent > Protocol().interval_percent
