"""Training with one recipe: a resumable loop that serves single networks and supernets alike."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from latency.files import sha256, write_bytes
from nas.training.data import Dataset, Split, batches
from search_spaces.errors import InputError

Progress = Callable[[int, int], None]
"""Told how many epochs are done, and of how many."""

Loss = Callable[[Tensor, Tensor, np.random.Generator], Tensor]
"""Images (N, C, H, W), labels (N,) and the batch's own randomness to a scalar."""

EVALUATION_BATCH = 256


@dataclass(frozen=True)
class Recipe:
    """SGD with Nesterov momentum, linear warm-up over ``warmup`` steps, cosine decay to zero, clipped gradients."""

    epochs: int
    batch_size: int = 64
    learning_rate: float = 0.1
    warmup: int = 20
    weight_decay: float = 1e-4
    clip: float = 5.0

    def rate(self, step: int, steps: int) -> float:
        """Return the learning rate of ``step`` out of ``steps``."""
        warm = min(1.0, (step + 1) / self.warmup)
        return self.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * step / steps))


def device() -> torch.device:
    """Return where training runs: CUDA where present, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class TrainingDiverged(RuntimeError):
    """The loss became infinite or undefined."""


def _job(state: Mapping[str, Tensor], data: Dataset, recipe: Recipe, seed: int) -> str:
    """Return what a checkpoint must agree in: another network or other data give other weights."""
    shapes = {name: list(tensor.shape) for name, tensor in state.items()}
    return sha256(json.dumps([shapes, data.digest, asdict(recipe), seed], sort_keys=True).encode())


def _save(path: Path, state: Mapping[str, Tensor], epoch: int, job: str) -> None:
    metadata = {"schema_version": "1", "epoch": str(epoch), "job": job}
    content = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    write_bytes(path, save(content, metadata))


def _resume(path: Path, state: Mapping[str, Tensor], job: str) -> int:
    """Load a checkpoint into ``state`` and return its number of finished epochs; 0 where there is none.

    Raises:
        InputError: the checkpoint is damaged or of another job.
    """
    if not path.exists():
        return 0
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            if metadata["job"] != job:
                raise InputError(
                    f"checkpoint {path} was made with another network, other data or another recipe; "
                    "delete it to start anew"
                )
            with torch.no_grad():
                for name, tensor in state.items():
                    tensor.copy_(file.get_tensor(name))
            return int(metadata["epoch"])
    except InputError:
        raise
    except (SafetensorError, KeyError, TypeError, ValueError):
        raise InputError(f"checkpoint {path} is damaged; delete it to start anew") from None


def fit(
    parameters: Mapping[str, nn.Parameter],
    loss: Loss,
    data: Dataset,
    recipe: Recipe,
    seed: int,
    checkpoint: Path | None = None,
    progress: Progress = lambda done, total: None,
    beside: Mapping[str, Tensor] = MappingProxyType({}),
    until: int | None = None,
) -> None:
    """Minimise ``loss`` over the training split, in place. What ``loss`` itself changes of its state is in ``beside``.

    After each epoch ``checkpoint`` holds all that the next one needs, and each epoch's randomness comes from
    (``seed``, epoch) alone: a run that was stopped and resumed ends with the same weights. ``until`` stops it after
    that epoch, on the schedule of the whole recipe.

    Raises:
        TrainingDiverged: the loss is no longer finite.
        InputError: ``checkpoint`` is damaged, past ``until``, or was made with another network, other data or another
            recipe.
    """
    momenta = {f"momentum.{name}": torch.zeros_like(p) for name, p in parameters.items()}
    state: dict[str, Tensor] = {**parameters, **momenta, **beside}
    job = _job(state, data, recipe, seed)
    first = _resume(checkpoint, state, job) if checkpoint else 0
    last = recipe.epochs if until is None else until
    if first > last:
        raise InputError(f"checkpoint {checkpoint} is past epoch {last}; delete it to start anew")
    optimiser = torch.optim.SGD(
        parameters.values(), recipe.learning_rate, 0.9, weight_decay=recipe.weight_decay, nesterov=True
    )
    for name, parameter in parameters.items():
        optimiser.state[parameter]["momentum_buffer"] = momenta[f"momentum.{name}"]
    per_epoch = math.ceil(len(data.train) / recipe.batch_size)
    progress(first, recipe.epochs)
    for epoch in range(first, last):
        rng = np.random.default_rng([seed, epoch])
        loader = batches(data.train, data.mean, data.std, recipe.batch_size, rng, augment=True)
        for batch, (images, labels) in enumerate(loader):
            rate = recipe.rate(epoch * per_epoch + batch, recipe.epochs * per_epoch)
            optimiser.param_groups[0]["lr"] = rate
            _step(optimiser, parameters, loss(images.to(device()), labels.to(device()), rng), recipe.clip)
        if checkpoint:
            _save(checkpoint, state, epoch + 1, job)
        progress(epoch + 1, recipe.epochs)


def _step(optimiser: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter], loss: Tensor, clip: float) -> None:
    if not torch.isfinite(loss):
        raise TrainingDiverged("the loss is no longer finite")
    optimiser.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(parameters.values(), clip)
    optimiser.step()


def train(
    network: nn.Module,
    data: Dataset,
    recipe: Recipe,
    seed: int,
    checkpoint: Path | None = None,
    progress: Progress = lambda done, total: None,
    until: int | None = None,
) -> nn.Module:
    """Train ``network`` in place by ``fit`` with cross-entropy and recalibrate its batch norm; return it.

    Raises:
        TrainingDiverged, InputError: see ``fit``.
    """
    network.to(device(), memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    # Batch norm's running statistics are made anew at the end, so they are no part of the state.
    fit(
        dict(network.named_parameters()),
        lambda images, labels, _: F.cross_entropy(network(images), labels),
        data, recipe, seed, checkpoint, progress, until=until,
    )  # fmt: skip
    return recalibrate(network, data)


CALIBRATION_IMAGES = 512


@torch.no_grad()
def recalibrate(network: nn.Module, data: Dataset) -> nn.Module:
    """Set the running statistics of batch norm to the averages over the first training images; return the network.

    Statistics inherited from a supernet, or averaged while weights still moved, misstate the accuracy.
    """
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over the batches
    network.to(device(), memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    rng = np.random.default_rng(0)
    rows = rng.permutation(len(data.train))[:CALIBRATION_IMAGES]
    sample = Split(data.train.images[rows], data.train.labels[rows])
    for images, _ in batches(sample, data.mean, data.std, 128):
        network(images.to(device()))
    return network.eval()


@torch.no_grad()
def accuracy(network: nn.Module, split: Split, data: Dataset) -> float:
    """Return the share of ``split`` that the network in evaluation mode classifies rightly, in [0, 1]."""
    network.to(device(), memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    right = 0
    for images, labels in batches(split, data.mean, data.std, EVALUATION_BATCH):
        right += int((network(images.to(device())).argmax(1).cpu() == labels).sum())
    return right / len(split)
