"""Finalists are chosen all along the front, trained once, and made anew when their file is not what it was."""

import random
from dataclasses import replace
from pathlib import Path

import pytest
from fakes import digits_task

from latency.device import DEVICES
from latency.emit import to_onnx
from latency.files import sha256
from latency.measure import Protocol
from nas.delivery import finalists as module
from nas.delivery.finalists import FinalTraining, Trained, choose_finalists, finished, measure_kept
from nas.search.record import Evaluated
from nas.training.oracle import Task
from nas.training.train import Recipe
from search_spaces.architecture import Architecture
from search_spaces.errors import InputError
from search_spaces.fbnet import FBNetSpace

SPACE = FBNetSpace((1, 8, 8), 10)
ARCHITECTURE = SPACE.parse("skip,k3_e1,skip,k3_e1_g2,skip,k3_e1,skip,k3_e1")


def rated(number: int, accuracy: float, ms: float, origin: str = "search") -> Evaluated:
    return Evaluated(number, Architecture("toy", (("n", str(number)),)), origin, accuracy, (ms, 100 - ms))


# The front has 24 candidates from 1 to 9.1 ms, crowded at the slow end; two more are dominated.
FRONT = [rated(n, 0.5 + 0.01 * n, ms) for n, ms in enumerate([1, 2, 3, *[7 + 0.1 * i for i in range(21)]])]
BEHIND = [rated(100, 0.45, 8.0, "baseline"), rated(101, 0.48, 8.5, "baseline"), rated(102, 0.2, 50.0)]


def test_as_many_as_asked_and_the_best_of_the_family() -> None:
    for count in (1, 2, 4, 8, 24):
        chosen = choose_finalists([*FRONT, *BEHIND], count, 0)
        assert len(chosen) == count + 1
        assert [t.number for t in chosen if t.origin == "baseline"] == [101]
        assert [t.ms[0] for t in chosen] == sorted(t.ms[0] for t in chosen)
        assert all(t in FRONT for t in chosen if t.origin != "baseline")


def test_every_bin_has_its_turn_first() -> None:
    # Four bins of log latency: below 1.74, 3.02, 5.24 and above; the third is empty.
    chosen = choose_finalists(FRONT, 4, 0)
    assert {0, 2, 23} <= {t.number for t in chosen}
    assert len(chosen) == 4 and {t.number for t in chosen} <= {0, 1, 2, 22, 23}


def test_most_accurate_is_always_chosen() -> None:
    for count in range(1, 10):
        assert FRONT[-1] in choose_finalists(FRONT, count, 0)


def test_family_on_the_front_is_not_added_again() -> None:
    own = [replace(t, origin="baseline") for t in FRONT]
    assert len(choose_finalists(own, 5, 0)) == 5


def test_short_fronts_are_filled_up_with_the_dominated() -> None:
    few = [rated(0, 0.9, 1.0), rated(1, 0.5, 2.0), rated(2, 0.8, 2.0), rated(3, 0.7, 2.0)]
    assert [sorted(t.number for t in choose_finalists(few, n, 0)) for n in (1, 2, 3)] == [[0], [0, 2], [0, 2, 3]]
    assert len(choose_finalists(few, 10, 0)) == 4
    assert choose_finalists([], 3, 0) == []


def test_choice_is_deterministic_and_per_device() -> None:
    expected = choose_finalists([*FRONT, *BEHIND], 6, 0)
    for seed in range(5):
        assert choose_finalists(random.Random(seed).sample([*FRONT, *BEHIND], 27), 6, 0) == expected
    # On the second device the latencies are turned round, so that all but the last is dominated.
    other = choose_finalists(FRONT, 1, 1)
    assert [t.number for t in other] == [23]


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    return digits_task(SPACE, tmp_path_factory.mktemp("task"), supernet_epochs=1)


@pytest.fixture(scope="module")
def work(task: Task, tmp_path_factory: pytest.TempPathFactory) -> FinalTraining:
    return FinalTraining(task, Recipe(2), tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def trained(work: FinalTraining) -> Trained:
    return work(ARCHITECTURE)


def test_record_and_file(work: FinalTraining, trained: Trained) -> None:
    assert finished(work.folder, ARCHITECTURE) == trained
    assert (trained.id, trained.architecture) == (ARCHITECTURE.id, ARCHITECTURE.text)
    assert trained.onnx == f"models/{ARCHITECTURE.id}.onnx"
    assert sha256((work.folder / trained.onnx).read_bytes()) == trained.onnx_sha256
    assert 0.2 < trained.val_accuracy <= 1 and 0.2 < trained.test_accuracy <= 1
    assert trained.max_difference < 1e-3


def test_finished_finalist_is_not_trained_again(
    work: FinalTraining, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "train", None)
    monkeypatch.setattr(module, "export", None)
    assert work(ARCHITECTURE) == trained


def test_changed_or_missing_file_is_made_anew(work: FinalTraining, trained: Trained) -> None:
    model = work.folder / trained.onnx
    whole = model.read_bytes()
    for change in (lambda: model.write_bytes(whole[:-1] + b"?"), model.unlink):
        change()
        assert finished(work.folder, ARCHITECTURE) is None
        again = work(ARCHITECTURE)
        assert again == trained
        assert sha256(model.read_bytes()) == trained.onnx_sha256


def test_stopped_training_goes_on(task: Task, work: FinalTraining, trained: Trained, tmp_path: Path) -> None:
    checkpoint = work.folder / "finalists" / f"{ARCHITECTURE.id}.safetensors"
    (tmp_path / "finalists").mkdir()
    (tmp_path / "finalists" / checkpoint.name).write_bytes(checkpoint.read_bytes())
    assert FinalTraining(task, Recipe(2), tmp_path)(ARCHITECTURE) == trained


def test_without_a_supernet_training_starts_fresh(task: Task, trained: Trained, tmp_path: Path) -> None:
    fresh = FinalTraining(replace(task, supernet=None), Recipe(2), tmp_path)(ARCHITECTURE)
    assert fresh.onnx_sha256 != trained.onnx_sha256


def test_damaged_record_is_an_input_error(work: FinalTraining, trained: Trained) -> None:
    record = work.folder / "finalists" / f"{ARCHITECTURE.id}.json"
    whole = record.read_bytes()
    record.write_bytes(whole.replace(b'"val_accuracy": 0.', b'"val_accuracy": 1.'))
    with pytest.raises(InputError, match="checksum"):
        finished(work.folder, ARCHITECTURE)
    record.write_bytes(whole)
    assert finished(work.folder, SPACE.parse("skip," * 7 + "skip")) is None


def test_measurement_is_kept_until_a_model_changes(
    work: FinalTraining, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PROTOCOL", Protocol(rounds=3, calls=1))
    steps: list[int] = []

    def progress(done: int, total: int) -> None:
        steps.append(done)

    models = {trained.id: (work.folder / trained.onnx).read_bytes()}
    path = work.folder / "measured" / "cpu.json"
    first = measure_kept(path, DEVICES["cpu"], models, progress)
    assert steps == [0, 1, 2, 3]
    found = first[trained.id]
    assert 0 < found.low <= found.ms <= found.high
    assert [path.name for path in (work.folder / "measured").iterdir()] == ["cpu.json"]
    assert measure_kept(path, DEVICES["cpu"], models, progress) == first and len(steps) == 4
    other = to_onnx(SPACE.build(ARCHITECTURE), SPACE.input_shape)
    assert measure_kept(path, DEVICES["cpu"], {trained.id: other}, progress) != first and len(steps) == 8
