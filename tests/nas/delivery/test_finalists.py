"""Finalists are chosen all along the front, trained once, and made anew when their file is not what it was."""

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from fakes import digits_task
from numpy.typing import NDArray
from torch import nn

from latency.device import Device
from latency.files import sha256
from nas.delivery import finalists as module
from nas.delivery.export import ExportFailed
from nas.delivery.finalists import FinalTraining, Trained, choose_finalists, failure, finished
from nas.search.record import Evaluated
from nas.training import train as training
from nas.training.checkpoint import save
from nas.training.data import Split, to_tensor
from nas.training.oracle import Task
from nas.training.recipe import Recipe
from nas.training.train import TrainingDiverged, recalibrate
from search_spaces.architecture import Architecture
from search_spaces.errors import InputError
from search_spaces.fbnet import FBNetSpace

SPACE = FBNetSpace((1, 8, 8), 10)
ARCHITECTURE = SPACE.parse("skip,k3_e1,skip,k3_e1_g2,skip,k3_e1,skip,k3_e1")
DEVICES = tuple(Device.parse(name) for name in ("cpu", "cpu:threads=2", "cpu:int8", "cpu:batch=4", "cpu:batch=4,int8"))
CPU = DEVICES[:1]
EVERYTHING = Recipe(2, label_smoothing=0.1, mixup=0.4, cutmix=1.0, ema=0.9, distil=0.3)
FILES = {
    "": f"models/{ARCHITECTURE.id}.onnx",
    "int8": f"models/{ARCHITECTURE.id}.int8.onnx",
    "b4": f"models/{ARCHITECTURE.id}.b4.onnx",
    "b4.int8": f"models/{ARCHITECTURE.id}.b4.int8.onnx",
}


def rated(number: int, accuracy: float, ms: float, origin: str = "search") -> Evaluated:
    return Evaluated(number, Architecture("toy", (("n", str(number)),)), origin, accuracy, (ms, 100 - ms))


# The front has 24 candidates from 1 to 9.1 ms, crowded at the slow end; two more are dominated.
FRONT = [rated(n, 0.5 + 0.01 * n, ms) for n, ms in enumerate([1, 2, 3, *[7 + 0.1 * i for i in range(21)]])]
BEHIND = [rated(100, 0.45, 8.0, "baseline"), rated(101, 0.48, 8.5, "baseline"), rated(102, 0.2, 50.0)]


def test_as_many_as_asked_by_rising_latency() -> None:
    for count in (1, 2, 4, 8, 24):
        chosen = choose_finalists([*FRONT, *BEHIND], count, 0)
        assert len(chosen) == count and all(t in FRONT for t in chosen)
        assert [t.ms[0] for t in chosen] == sorted(t.ms[0] for t in chosen)


def test_every_bin_has_its_turn_first() -> None:
    # Four bins of log latency: below 1.74, 3.02, 5.24 and above; the third is empty.
    chosen = choose_finalists(FRONT, 4, 0)
    assert {0, 2, 23} <= {t.number for t in chosen}
    assert len(chosen) == 4 and {t.number for t in chosen} <= {0, 1, 2, 22, 23}


def test_most_accurate_is_always_chosen() -> None:
    for count in range(1, 10):
        assert FRONT[-1] in choose_finalists(FRONT, count, 0)


def test_short_fronts_are_filled_up_with_the_dominated() -> None:
    few = [rated(0, 0.9, 1.0), rated(1, 0.5, 2.0), rated(2, 0.8, 2.0), rated(3, 0.7, 2.0)]
    assert [sorted(t.number for t in choose_finalists(few, n, 0)) for n in (1, 2, 3)] == [[0], [0, 2], [0, 2, 3]]
    assert len(choose_finalists(few, 10, 0)) == 4
    assert choose_finalists([], 3, 0) == []


def test_slow_networks_that_are_rated_alike_are_chosen_and_the_hopeless_come_last() -> None:
    # Ratings rise up to 4 ms and then stay within their noise; the last two are beyond it.
    alike = [rated(n, min(0.5 + 0.1 * n, 0.8) - 0.01 * (n > 4), 2.0 ** (n / 2)) for n in range(9)]
    hopeless = [rated(9, 0.3, 20.0), rated(10, 0.2, 30.0)]
    assert [t.number for t in choose_finalists([*alike, *hopeless], 9, 0)] == list(range(9))
    assert [t.number for t in choose_finalists([*alike, *hopeless], 10, 0)] == list(range(10))


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
    return FinalTraining(task, Recipe(2), tmp_path_factory.mktemp("run"), DEVICES)


@pytest.fixture(scope="module")
def trained(work: FinalTraining) -> Trained:
    return work(ARCHITECTURE)


def test_record_and_a_file_per_form(work: FinalTraining, trained: Trained) -> None:
    assert finished(work.folder, ARCHITECTURE) == trained
    assert (trained.id, trained.architecture) == (ARCHITECTURE.id, ARCHITECTURE.text)
    assert {form: file.onnx for form, file in trained.files.items()} == FILES
    assert {device.form for device in DEVICES} == FILES.keys()
    assert sorted(path.name for path in (work.folder / "models").iterdir()) == sorted(
        path.removeprefix("models/") for path in FILES.values()
    )
    for file in trained.files.values():
        assert sha256((work.folder / file.onnx).read_bytes()) == file.onnx_sha256 and file.intact(work.folder)
        assert 0.2 < file.val_accuracy <= 1 and 0.2 < file.test_accuracy <= 1


def test_files_have_the_form_that_they_are_named_for(work: FinalTraining, trained: Trained) -> None:
    for form, file in trained.files.items():
        proto = onnx.load(work.folder / file.onnx)
        (given,) = proto.graph.input
        assert given.type.tensor_type.shape.dim[0].dim_value == (4 if "b4" in form else 1)
        operators = Counter(node.op_type for node in proto.graph.node)
        assert (operators["QuantizeLinear"] > 0) is ("int8" in form)
        kept = {entry.key: entry.value for entry in proto.metadata_props}
        assert kept["architecture"] == f'"{ARCHITECTURE.text}"' and "preprocessing" in kept


def classified(content: bytes, split: Split, task: Task, batch: int) -> NDArray[np.bool_]:
    """Return which images ONNX Runtime classifies rightly; written anew, independent of ``file_accuracy``."""
    session = ort.InferenceSession(content, providers=["CPUExecutionProvider"])
    data = task.dataset
    pixels = (np.asarray(split.images, np.float64) / 255 - np.array(data.mean)) / np.array(data.std)
    images = pixels.transpose(0, 3, 1, 2).astype(np.float32)
    rows = np.arange(-(-len(images) // batch) * batch) % len(images)  # the last batch is filled up with the first
    found = [session.run(["scores"], {"input": images[part]})[0] for part in np.split(rows, len(rows) // batch)]
    return np.asarray(np.concatenate(found)[: len(images)].argmax(1) == split.labels)


@pytest.mark.parametrize("form", FILES)
def test_accuracy_is_that_of_the_file(form: str, work: FinalTraining, trained: Trained) -> None:
    file, data = trained.files[form], work.task.dataset
    content, batch = (work.folder / file.onnx).read_bytes(), 4 if "b4" in form else 1
    assert len(data.val) % 4, "a remainder is wanted here"
    assert classified(content, data.val, work.task, batch).mean() == pytest.approx(file.val_accuracy)
    assert classified(content, data.test, work.task, batch).mean() == pytest.approx(file.test_accuracy)


def test_integers_cost_little_and_are_not_the_floats(trained: Trained) -> None:
    exact, integer, batched = (trained.files[form] for form in ("", "int8", "b4"))
    assert exact.max_difference < 1e-3 and batched.max_difference < 1e-3 < integer.max_difference < 5
    assert abs(integer.val_accuracy - exact.val_accuracy) < 0.05
    assert (batched.val_accuracy, batched.test_accuracy) == (exact.val_accuracy, exact.test_accuracy)


def test_finished_finalist_is_not_trained_again(
    work: FinalTraining, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("train", "export", "quantize"):
        monkeypatch.setattr(module, name, None)
    assert work(ARCHITECTURE) == trained


@pytest.mark.parametrize("form", FILES)
def test_a_changed_or_missing_file_is_noticed(form: str, work: FinalTraining, trained: Trained) -> None:
    model = work.folder / FILES[form]
    whole = model.read_bytes()
    model.write_bytes(whole[:-1] + b"?")
    assert finished(work.folder, ARCHITECTURE) is None and not trained.files[form].intact(work.folder)
    model.unlink()
    assert finished(work.folder, ARCHITECTURE) is None and not trained.files[form].intact(work.folder)
    model.write_bytes(whole)
    assert finished(work.folder, ARCHITECTURE) == trained


def test_a_changed_file_is_made_anew(work: FinalTraining, trained: Trained) -> None:
    (work.folder / FILES["b4.int8"]).write_bytes(b"?")
    (work.folder / FILES[""]).unlink()
    assert work(ARCHITECTURE) == trained
    assert finished(work.folder, ARCHITECTURE) == trained


def test_stopped_training_goes_on(task: Task, work: FinalTraining, trained: Trained, tmp_path: Path) -> None:
    checkpoint = work.folder / "finalists" / f"{ARCHITECTURE.id}.safetensors"
    (tmp_path / "finalists").mkdir()
    (tmp_path / "finalists" / checkpoint.name).write_bytes(checkpoint.read_bytes())
    again = FinalTraining(task, Recipe(2), tmp_path, CPU)(ARCHITECTURE)
    assert again.files == {"": trained.files[""]}


@pytest.mark.parametrize("recipe", [Recipe(2), EVERYTHING], ids=["plain", "everything"])
def test_killed_in_the_middle_is_as_if_undisturbed(
    recipe: Recipe, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = FinalTraining(task, recipe, tmp_path / "undisturbed", CPU)(ARCHITECTURE)
    with monkeypatch.context() as patch:
        patch.setattr(training, "save", save_and_die)
        with pytest.raises(KeyboardInterrupt):
            FinalTraining(task, recipe, tmp_path / "killed", CPU)(ARCHITECTURE)
    assert finished(tmp_path / "killed", ARCHITECTURE) is None
    assert [path.name for path in (tmp_path / "killed").rglob("*.*")] == [f"{ARCHITECTURE.id}.safetensors"]
    assert FinalTraining(task, recipe, tmp_path / "killed", CPU)(ARCHITECTURE) == undisturbed


@pytest.mark.parametrize(
    ("step", "error"),
    [("train", TrainingDiverged("the loss is no longer finite")), ("export", ExportFailed("they differ"))],
)
def test_what_fails_is_not_tried_again(
    step: str, error: Exception, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    work = FinalTraining(replace(task, supernet=None), Recipe(1), tmp_path, CPU)
    assert failure(tmp_path, ARCHITECTURE) is None
    monkeypatch.setattr(module, step, fail)
    assert work(ARCHITECTURE) is None and failure(tmp_path, ARCHITECTURE) == str(error)
    assert finished(tmp_path, ARCHITECTURE) is None and not list(tmp_path.glob("models/*"))


def save_and_die(*arguments: Any) -> None:
    save(*arguments)
    raise KeyboardInterrupt


def test_teacher_is_the_largest_of_the_family_and_taught_by_the_supernet(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    largest = SPACE.parse(",".join(["k5_e6"] * SPACE.searchable))
    images = to_tensor(task.dataset.val.images[:8], task.dataset.mean, task.dataset.std)
    seen: list[torch.Tensor] = []

    def trained(*_: object, teacher: nn.Module | None = None, **__: object) -> nn.Module:
        if teacher is not None:
            assert not teacher.training
            seen.append(teacher(images))
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "train", trained)
    for supernet, recipe in ((task.supernet, EVERYTHING), (task.supernet, Recipe(2)), (None, Recipe(2))):
        with pytest.raises(KeyboardInterrupt):
            FinalTraining(replace(task, supernet=supernet), recipe, tmp_path, CPU)(ARCHITECTURE)
    (found,) = seen
    expected = recalibrate(task.train_supernet().inherit(largest), task.dataset)(images)
    assert torch.equal(found, expected)


def test_without_a_supernet_training_starts_fresh(task: Task, trained: Trained, tmp_path: Path) -> None:
    fresh = FinalTraining(replace(task, supernet=None), Recipe(2), tmp_path, CPU)(ARCHITECTURE)
    assert fresh.files[""].onnx_sha256 != trained.files[""].onnx_sha256


def test_float_files_are_kept_beside_those_of_the_device(task: Task, work: FinalTraining, tmp_path: Path) -> None:
    checkpoint = work.folder / "finalists" / f"{ARCHITECTURE.id}.safetensors"
    (tmp_path / "finalists").mkdir()
    (tmp_path / "finalists" / checkpoint.name).write_bytes(checkpoint.read_bytes())
    assert FinalTraining(task, Recipe(2), tmp_path, DEVICES[2:3])(ARCHITECTURE).files.keys() == {"", "int8"}


def test_damaged_record_is_an_input_error(work: FinalTraining, trained: Trained) -> None:
    record = work.folder / "finalists" / f"{ARCHITECTURE.id}.json"
    whole = record.read_bytes()
    record.write_bytes(whole.replace(b'"val_accuracy": 0.', b'"val_accuracy": 1.'))
    with pytest.raises(InputError, match="checksum"):
        finished(work.folder, ARCHITECTURE)
    record.write_bytes(whole)
    assert finished(work.folder, SPACE.parse("skip," * 7 + "skip")) is None
