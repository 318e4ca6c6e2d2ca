"""Finalists: chosen at every latency, trained to the end, and delivered as ONNX files."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path

import numpy as np
import torch
from torch import nn

from latency.device import Device
from latency.files import read_sealed, sha256, write_bytes, write_sealed
from latency.quantize import quantize
from nas.delivery.export import ExportFailed, export, file_accuracy, file_metadata, largest_difference
from nas.search.record import Evaluated
from nas.training.data import to_tensor
from nas.training.oracle import Task
from nas.training.recipe import Recipe
from nas.training.supernet import Supernet
from nas.training.train import TrainingDiverged, accuracy, recalibrate, train
from search_spaces.architecture import Architecture

SCHEMA_VERSION = 2
COMPARED_IMAGES = 16
# Ranges of activations settle within a few dozen images.
QUANTISATION_IMAGES = 64


def choose_finalists(rated: Sequence[Evaluated], count: int, device: int) -> list[Evaluated]:
    """Return ``count`` candidates, or all if they are fewer, by rising latency and spread over its range.

    That a faster one is rated a little higher does not count: short trainings hardly tell slow networks apart, and
    layers of dominance would crowd at the fast end. Only what is outrated by more than twice the standard deviation of
    all ratings comes last.
    """
    deviation = float(np.std([t.accuracy for t in rated])) if rated else 0.0
    near: list[Evaluated] = []
    outrated: list[Evaluated] = []
    highest = -math.inf
    for trial in sorted(rated, key=lambda t: (t.ms[device], -t.accuracy, t.number)):
        (outrated if highest - trial.accuracy > 2 * deviation else near).append(trial)
        highest = max(highest, trial.accuracy)
    chosen = [*_spread(near, count, device), *sorted(outrated, key=lambda t: -t.accuracy)][:count]
    return sorted(chosen, key=lambda t: t.ms[device])


def _spread(rated: Sequence[Evaluated], count: int, device: int) -> list[Evaluated]:
    """Return up to ``count``: of as many equal bins of log latency the best of each, then the second of each, ..."""
    logs = [math.log(t.ms[device]) for t in rated]
    width = (max(logs, default=0.0) - min(logs, default=0.0)) / count or 1.0
    bins: dict[int, list[Evaluated]] = {}
    for trial in sorted(rated, key=lambda t: -t.accuracy):
        number = min(count - 1, int((math.log(trial.ms[device]) - min(logs)) / width))
        bins.setdefault(number, []).append(trial)
    return [t for turn in zip_longest(*bins.values()) for t in turn if t is not None][:count]


@dataclass(frozen=True)
class ModelFile:
    """An ONNX file of a trained network; accuracies in [0, 1] are the file's own where its precision is.

    ``max_difference`` is the largest absolute difference of its scores from PyTorch's.
    """

    onnx: str
    onnx_sha256: str
    val_accuracy: float
    test_accuracy: float
    max_difference: float

    def intact(self, folder: Path) -> bool:
        """Tell whether the file lies unchanged in a run's ``folder``."""
        path = folder / self.onnx
        return path.exists() and sha256(path.read_bytes()) == self.onnx_sha256


@dataclass(frozen=True)
class Trained:
    """A finalist that was trained and exported: its files by the form that devices ask for (``Device.form``)."""

    id: str
    architecture: str
    files: dict[str, ModelFile]


@dataclass(frozen=True)
class FinalTraining:
    """The work of a finalist: one identical recipe for all, from supernet weights where they exist.

    Finalists are trained side by side by the executors of the search, and a worker that is lost leaves its checkpoint
    to the next. Ray Tune would bring a second scheduler and store of results for that, and there is nothing to tune.
    """

    task: Task
    recipe: Recipe
    folder: Path
    devices: tuple[Device, ...]

    def __call__(self, architecture: Architecture) -> Trained | None:
        """Train, export and check one finalist; resumes where it was, and returns at once when it is done.

        Where the training diverges, or the file does not compute what the network does, the reason is kept
        (``failure``) and nothing returned: it would be no other one the next time, and the others count without it.
        """
        try:
            return finished(self.folder, architecture) or self._trained(architecture)
        except (TrainingDiverged, ExportFailed) as error:
            record = _failure_record(self.folder, architecture)
            write_sealed(record, 1, {"architecture": architecture.text, "reason": str(error)})
            return None

    def _trained(self, architecture: Architecture) -> Trained:
        record = self.folder / "finalists" / f"{architecture.id}.json"
        task = self.task
        supernet = task.train_supernet() if task.supernet else None
        network = train(
            supernet.inherit(architecture) if supernet else task.fresh(architecture),
            task.dataset, self.recipe, task.seed, record.with_suffix(".safetensors"),
            teacher=self._teacher(supernet) if supernet and self.recipe.distil else None,
        )  # fmt: skip
        accuracies = (
            accuracy(network, task.dataset.val, task.dataset),
            accuracy(network, task.dataset.test, task.dataset),
        )
        batches = sorted({1, *(device.batch for device in self.devices)})
        exported = {batch: self._export(network, architecture, batch, *accuracies) for batch in batches}
        files = {"": exported[1]}
        for device in self.devices:
            if device.form not in files:
                file, integer = exported[device.batch], device.precision == "int8"
                files[device.form] = self._quantised(network, file, device.batch) if integer else file
        trained = Trained(architecture.id, architecture.text, files)
        write_sealed(record, SCHEMA_VERSION, asdict(trained))
        return trained

    def _teacher(self, supernet: Supernet) -> nn.Module:
        """Return the largest network of the hand-made family as the supernet has it: the same one for all finalists."""
        space = self.task.space
        return recalibrate(supernet.inherit(max(space.baseline_family(), key=space.macs)), self.task.dataset)

    def _images(self, count: int) -> torch.Tensor:
        data = self.task.dataset
        return to_tensor(np.asarray(data.val.images[:count]), data.mean, data.std)

    def _export(self, network: nn.Module, architecture: Architecture, batch: int, val: float, test: float) -> ModelFile:
        data = self.task.dataset
        path = f"models/{architecture.id}{f'.b{batch}' if batch > 1 else ''}.onnx"
        metadata = file_metadata(architecture.text, data)
        images = self._images(max(COMPARED_IMAGES, batch))
        difference = export(network, data.input_shape, self.folder / path, metadata, images, batch)
        return ModelFile(path, sha256((self.folder / path).read_bytes()), val, test, difference)

    def _quantised(self, network: nn.Module, source: ModelFile, batch: int) -> ModelFile:
        """Return the int8 form of a file: ranges from training images, accuracy measured on the file itself."""
        data = self.task.dataset
        count = max(batch, QUANTISATION_IMAGES // batch * batch)
        rows = np.resize(np.random.default_rng(self.task.seed).permutation(len(data.train)), count)
        images = to_tensor(np.asarray(data.train.images[rows]), data.mean, data.std).contiguous().numpy()
        path = source.onnx.removesuffix(".onnx") + ".int8.onnx"
        quantised = quantize((self.folder / source.onnx).read_bytes(), np.split(images, len(images) // batch))
        write_bytes(self.folder / path, quantised)
        val, test = (file_accuracy(quantised, split, data) for split in (data.val, data.test))
        difference = largest_difference(network, quantised, self._images(COMPARED_IMAGES))
        return ModelFile(path, sha256(quantised), val, test, difference)


def _failure_record(folder: Path, architecture: Architecture) -> Path:
    return folder / "finalists" / f"{architecture.id}.failed.json"


def failure(folder: Path, architecture: Architecture) -> str | None:
    """Return why a finalist could not be trained or exported, None where it was or has not been tried."""
    record = _failure_record(folder, architecture)
    return str(read_sealed(record, 1, "failure")["reason"]) if record.exists() else None


def finished(folder: Path, architecture: Architecture) -> Trained | None:
    """Return the record of a finalist that is done and whose ONNX files are unchanged, else None."""
    record = folder / "finalists" / f"{architecture.id}.json"
    if not record.exists():
        return None
    body = read_sealed(record, SCHEMA_VERSION, "finalist")
    files = {form: ModelFile(**values) for form, values in body["files"].items()}
    trained = Trained(body["id"], body["architecture"], files)
    return trained if all(file.intact(folder) for file in files.values()) else None
