"""Training with one recipe: a resumable loop that serves single networks and supernets alike."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from latency.files import sha256
from nas.training.checkpoint import LOSSES, job_of, resume, save
from nas.training.data import Dataset, Split, batches
from nas.training.hardware import device, placed
from nas.training.objective import objective
from nas.training.recipe import Recipe
from search_spaces.errors import InputError

Progress = Callable[[int, int], None]
"""Told how many epochs are done, and of how many."""

Loss = Callable[[Tensor, Tensor, np.random.Generator], Tensor]
"""Images (N, C, H, W), labels (N,) and the batch's own randomness to a scalar."""

EVALUATION_BATCH = 256


class TrainingDiverged(RuntimeError):
    """The loss became infinite or undefined."""


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
    also: str = "",
) -> None:
    """Minimise ``loss`` over the training split, in place. What ``loss`` itself changes of its state is in ``beside``.

    After each epoch ``checkpoint`` holds all that the next one needs, and each epoch's randomness comes from
    (``seed``, epoch) alone: a run that was stopped and resumed ends with the same weights. ``until`` stops it after
    that epoch, on the schedule of the whole recipe. ``also`` names what else the loss depends on.

    Raises:
        TrainingDiverged: the loss is no longer finite.
        InputError: ``checkpoint`` is damaged, past ``until``, or was made with another network, other data or another
            recipe.
    """
    momenta = {f"momentum.{name}": torch.zeros_like(p) for name, p in parameters.items()}
    averages = {f"average.{name}": p.detach().clone() for name, p in parameters.items()} if recipe.ema else {}
    losses = torch.full((recipe.epochs,), math.nan, dtype=torch.float64)
    state: dict[str, Tensor] = {**parameters, **momenta, **averages, **beside, LOSSES: losses}
    job = job_of(state, data, recipe, seed, also)
    first = resume(checkpoint, state, job) if checkpoint else 0
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
        found: list[Tensor] = []
        for images, labels, rng in _epoch(data, recipe, seed, epoch):
            step = epoch * per_epoch + len(found)
            optimiser.param_groups[0]["lr"] = recipe.rate(step, recipe.epochs * per_epoch)
            found.append(_step(optimiser, parameters, loss(images, labels, rng), recipe.clip))
            if averages:
                _average(averages.values(), parameters.values(), recipe.decay(step))
        losses[epoch] = torch.stack(found).mean()
        if checkpoint:
            save(checkpoint, state, epoch + 1, job)
        progress(epoch + 1, recipe.epochs)
    if averages:
        _average(parameters.values(), averages.values(), 0.0)


def _epoch(
    data: Dataset, recipe: Recipe, seed: int, epoch: int
) -> Iterator[tuple[Tensor, Tensor, np.random.Generator]]:
    """Yield the augmented batches of an epoch where training runs, and the randomness that is left for the loss."""
    rng, place = np.random.default_rng([seed, epoch]), device()
    # On a GPU images are augmented in a thread of their own, which needs a generator of its own.
    own = rng.spawn(1)[0] if place.type == "cuda" else rng
    loader = batches(data.train, data.mean, data.std, recipe.batch_size, own, augment=True)
    for images, labels in placed(loader, place):
        yield images, labels, rng


def _step(
    optimiser: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter], loss: Tensor, clip: float
) -> Tensor:
    """Take a step and return the loss before it."""
    if not torch.isfinite(loss):
        raise TrainingDiverged("the loss is no longer finite")
    optimiser.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(parameters.values(), clip)
    optimiser.step()
    return loss.detach()


def _average(averages: Iterable[Tensor], values: Iterable[Tensor], decay: float) -> None:
    """Move ``averages`` towards ``values``, all the way at a ``decay`` of 0."""
    get_ema_multi_avg_fn(decay)(list(averages), list(values), None)


def train(
    network: nn.Module,
    data: Dataset,
    recipe: Recipe,
    seed: int,
    checkpoint: Path | None = None,
    progress: Progress = lambda done, total: None,
    until: int | None = None,
    teacher: nn.Module | None = None,
) -> nn.Module:
    """Train ``network`` in place by ``fit`` and recalibrate its batch norm; return it.

    ``teacher`` is a calibrated network to imitate by ``recipe.distil``; without one only labels count.

    Raises:
        TrainingDiverged, InputError: see ``fit``.
    """
    network.to(device(), memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    also = ""
    if teacher is not None:
        teacher.to(device(), memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        also = _digest(teacher)
    # Batch norm's running statistics are made anew at the end, so they are no part of the state.
    fit(
        dict(network.named_parameters()), partial(objective, network, recipe, teacher),
        data, recipe, seed, checkpoint, progress, until=until, also=also,
    )  # fmt: skip
    return recalibrate(network, data)


def _digest(network: nn.Module) -> str:
    return sha256(b"".join(value.cpu().numpy().tobytes() for value in network.state_dict().values()))


CALIBRATION_IMAGES = 512


@torch.no_grad()
def recalibrate(network: nn.Module, data: Dataset) -> nn.Module:
    """Set the running statistics of batch norm to the averages over the first training images; return the network.

    Statistics inherited from a supernet, or averaged while weights still moved, misstate the accuracy.
    """
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over the batches
    network.to(device(), memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    rng = np.random.default_rng(0)
    rows = rng.permutation(len(data.train))[:CALIBRATION_IMAGES]
    sample = Split(data.train.images[rows], data.train.labels[rows])
    for images, _ in placed(batches(sample, data.mean, data.std, 128), device()):
        network(images)
    return network.eval()


@torch.no_grad()
def accuracy(network: nn.Module, split: Split, data: Dataset) -> float:
    """Return the share of ``split`` that the network in evaluation mode classifies rightly, in [0, 1]."""
    network.to(device(), memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    right = 0
    for images, labels in placed(batches(split, data.mean, data.std, EVALUATION_BATCH), device()):
        right += int((network(images).argmax(1) == labels).sum())
    return right / len(split)
