"""Finalists: chosen from the predicted front, trained to the end, exported and re-measured."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from latency.device import Device
from latency.files import read_sealed, sha256, write_sealed
from latency.measure import Measured, Progress, Protocol, forget, measure
from nas.delivery.export import export, file_metadata
from nas.search.pareto import non_dominated
from nas.search.record import Evaluated
from nas.training.data import to_tensor
from nas.training.oracle import Task
from nas.training.train import Recipe, accuracy, train
from search_spaces.architecture import Architecture

SCHEMA_VERSION = 1
COMPARED_IMAGES = 16
# Whole networks are few, so they are measured more often than the blocks of a table.
PROTOCOL = Protocol(rounds=40, calls=1)


def choose_finalists(rated: Sequence[Evaluated], count: int, device: int) -> list[Evaluated]:
    """Return ``count`` candidates spread over the front, and the best of the baseline family if it is not one.

    The front's range of log latency is split into ``count`` equal bins that take turns; a front of fewer
    candidates is filled up with the best dominated ones, for ratings are noisy.
    """
    if not rated:
        return []
    keep = non_dominated([(t.accuracy, t.ms[device]) for t in rated])
    front = [t for t, kept in zip(rated, keep, strict=True) if kept]
    logs = [math.log(t.ms[device]) for t in front]
    width = (max(logs) - min(logs)) / count or 1.0
    bins: dict[int, list[Evaluated]] = {}
    for trial in sorted(front, key=lambda t: -t.accuracy):
        number = min(count - 1, int((math.log(trial.ms[device]) - min(logs)) / width))
        bins.setdefault(number, []).append(trial)
    # The best of every bin, then the second of every bin, and so on; at last the dominated.
    turns = [t for turn in zip_longest(*bins.values()) for t in turn if t is not None]
    dominated = sorted((t for t in rated if t not in front), key=lambda t: -t.accuracy)
    finalists = {t.architecture.id: t for t in [*turns, *dominated][:count]}
    family = [t for t in rated if t.origin == "baseline"]
    if family:
        best = max(family, key=lambda t: t.accuracy)
        finalists.setdefault(best.architecture.id, best)
    return sorted(finalists.values(), key=lambda t: t.ms[device])


@dataclass(frozen=True)
class Trained:
    """A finalist that was trained and exported; accuracies in [0, 1], paths relative to the run's folder."""

    id: str
    architecture: str
    val_accuracy: float
    test_accuracy: float
    onnx: str
    onnx_sha256: str
    max_difference: float


@dataclass(frozen=True)
class FinalTraining:
    """The work of a finalist: one identical recipe for all, from supernet weights where they exist."""

    task: Task
    recipe: Recipe
    folder: Path

    def __call__(self, architecture: Architecture) -> Trained:
        """Train, export and check one finalist; resumes where it was, and returns at once when it is done."""
        record = self.folder / "finalists" / f"{architecture.id}.json"
        done = finished(self.folder, architecture)
        if done is not None:
            return done
        data, task = self.task.dataset, self.task
        start = task.load_supernet().inherit(architecture) if task.supernet else task.fresh(architecture)
        checkpoint = record.with_suffix(".safetensors")
        network = train(start, data, self.recipe, task.seed, checkpoint)
        images = to_tensor(np.asarray(data.val.images[:COMPARED_IMAGES]), data.mean, data.std)
        onnx = f"models/{architecture.id}.onnx"
        metadata = file_metadata(architecture.text, data)
        val, test = accuracy(network, data.val, data), accuracy(network, data.test, data)
        difference = export(network, data.input_shape, self.folder / onnx, metadata, images)
        digest = sha256((self.folder / onnx).read_bytes())
        trained = Trained(architecture.id, architecture.text, val, test, onnx, digest, difference)
        write_sealed(record, SCHEMA_VERSION, asdict(trained))
        return trained


def finished(folder: Path, architecture: Architecture) -> Trained | None:
    """Return the record of a finalist that is done and whose ONNX file is unchanged, else None."""
    record = folder / "finalists" / f"{architecture.id}.json"
    if not record.exists():
        return None
    trained = Trained(**read_sealed(record, SCHEMA_VERSION, "finalist"))
    model = folder / trained.onnx
    intact = model.exists() and sha256(model.read_bytes()) == trained.onnx_sha256
    return trained if intact else None


def measure_kept(path: Path, device: Device, models: Mapping[str, bytes], progress: Progress) -> dict[str, Measured]:
    """Measure ONNX models (name -> file content) together, by the same protocol as the table, and keep it in ``path``.

    Returns:
        name -> latency (ms) with interval; from ``path`` if these very models were measured on this device.
    """
    digests = {name: sha256(content) for name, content in models.items()}
    wanted: dict[str, Any] = {"models": digests, "device": device.fingerprint()}
    if path.exists():
        body = read_sealed(path, SCHEMA_VERSION, "measurement")
        if {key: body[key] for key in wanted} == wanted:
            return {name: Measured(**values) for name, values in body["latency"].items()}
    journal = path.with_suffix(".partial.jsonl")
    samples = measure(device, models, PROTOCOL, journal, progress)
    found = {name: Measured.of(values) for name, values in samples["cold_ms"].items()}
    write_sealed(path, SCHEMA_VERSION, {**wanted, "latency": {n: asdict(m) for n, m in found.items()}})
    forget(journal)
    return found
