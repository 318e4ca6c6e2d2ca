"""Which paths of a supernet one update trains (``--supernet-paths``), all of them on the same sliced weights.

single: one path, drawn uniformly (Single Path One-Shot, ECCV 2020, arXiv 1904.00420, section 3.2).
fair: every candidate of each layer once (FairNAS, ICCV 2021, arXiv 1907.01845, algorithm 1).
sandwich: the largest path, the smallest and two random ones; all but the largest learn what the largest says
(BigNAS, ECCV 2020, arXiv 2003.11142, section 3: sandwich rule and in-place distillation).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.training.train import Loss
from search_spaces.architecture import Architecture
from search_spaces.errors import InputError
from search_spaces.extremes import largest, smallest
from search_spaces.grid import Grid
from search_spaces.space import SearchSpace, sample

PathKind = Literal["single", "fair", "sandwich"]
RANDOM_PATHS = 2


Forward = Callable[[Architecture, Tensor], Tensor]
"""A path and images (N, C, H, W) to class scores (N, classes)."""


def path_loss(kind: PathKind, space: SearchSpace, forward: Forward, parameters: Sequence[nn.Parameter]) -> Loss:
    """Return the loss of one update of the shared ``parameters``.

    Of several paths it is the mean, so that the learning rate of a recipe suits all kinds.

    Raises:
        InputError: the space's decisions depend on each other, so that no update can be fair.
    """
    if kind == "fair":
        return _fair(space, forward, parameters)
    if kind == "sandwich":
        return _sandwich(space, forward, parameters)

    def loss(images: Tensor, labels: Tensor, rng: np.random.Generator) -> Tensor:
        return F.cross_entropy(forward(sample(space, rng), images), labels)

    return loss


def require_paths(kind: PathKind, space: SearchSpace) -> Grid | None:
    """Return the space's grid.

    Raises:
        InputError: ``kind`` needs one, and there is none.
    """
    grid = space.grid()
    if kind == "fair" and grid is None:
        raise InputError(
            f"--supernet-paths fair takes every candidate of each layer once, but decisions of {space.name} depend on "
            "each other: give single or sandwich"
        )
    return grid


def fair_paths(space: SearchSpace, grid: Grid, rng: np.random.Generator) -> list[Architecture]:
    """Return as many paths as the longest list of options has, which together take each option of each decision once.

    Decisions with fewer options take theirs in turn. Paths are as drawn and not in canonical form, which would move
    options to other layers.
    """
    most = max(map(len, grid.options.values()))
    columns = [np.resize(rng.permutation(len(options)), most) for options in grid.options.values()]
    rows = np.stack(columns, axis=1)
    return [Architecture(space.name, tuple(grid.decisions(row).items())) for row in rows]


def _fair(space: SearchSpace, forward: Forward, parameters: Sequence[nn.Parameter]) -> Loss:
    grid = require_paths("fair", space)
    assert grid is not None

    def loss(images: Tensor, labels: Tensor, rng: np.random.Generator) -> Tensor:
        paths = fair_paths(space, grid, rng)
        losses = (F.cross_entropy(forward(path, images), labels) for path in paths)
        return mean_loss(losses, parameters)

    return loss


def _sandwich(space: SearchSpace, forward: Forward, parameters: Sequence[nn.Parameter]) -> Loss:
    most, least = largest(space), smallest(space)

    def losses(images: Tensor, labels: Tensor, rng: np.random.Generator) -> Iterator[Tensor]:
        scores = forward(most, images)
        taught = F.softmax(scores.detach(), dim=1)
        yield F.cross_entropy(scores, labels)
        for path in (least, *(sample(space, rng) for _ in range(RANDOM_PATHS))):
            yield F.cross_entropy(forward(path, images), taught)

    def loss(images: Tensor, labels: Tensor, rng: np.random.Generator) -> Tensor:
        return mean_loss(losses(images, labels, rng), parameters)

    return loss


def mean_loss(losses: Iterable[Tensor], parameters: Sequence[nn.Parameter]) -> Tensor:
    """Return the mean of scalar losses, with its gradient.

    Gradients are accumulated, so that the activations of one path at a time take memory: backward of what is returned
    hands them on.
    """
    gradients: list[Tensor | None] = [None] * len(parameters)
    values = []
    for loss in losses:
        values.append(loss.detach())
        for i, gradient in enumerate(torch.autograd.grad(loss, parameters, allow_unused=True)):
            so_far = gradients[i]
            if gradient is not None:
                gradients[i] = gradient if so_far is None else so_far + gradient
    found = [(w * g).sum() for w, g in zip(parameters, gradients, strict=True) if g is not None]
    pull = torch.stack(found).sum() / len(values)
    return torch.stack(values).mean() + pull - pull.detach()
