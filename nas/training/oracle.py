"""Oracles: what rates an architecture during the search."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from torch import nn

from nas.training.blockwise import Blockwise, agreement
from nas.training.data import Dataset, Split, load_dataset, parted, to_tensor
from nas.training.paths import PathKind
from nas.training.soundness import require_sound
from nas.training.supernet import Supernet
from nas.training.train import Progress, Recipe, accuracy, recalibrate, train
from predictors.stacked import StackedRating
from predictors.zero_cost import naswot
from search_spaces.architecture import Architecture
from search_spaces.block import Shape
from search_spaces.space import SearchSpace

# The standard error of an accuracy over this many images is below a percent; more would cost more than it tells.
RATING_IMAGES = 2000
NASWOT_IMAGES = 64
INHERITED, MACS, PARAMETERS, NASWOT = "inherited accuracy", "MACs", "parameters", "naswot"
"""The names of the scores that a rating may be made of."""
ACCURACY, BLOCKWISE = "accuracy", "block-wise score"
"""What a rating is called: a score orders networks as an accuracy would, and is none."""


def counts(space: SearchSpace, architectures: Sequence[Architecture]) -> dict[str, list[float]]:
    """Return the scores that need no network: MACs and parameters of each architecture."""
    return {
        MACS: [float(space.macs(a)) for a in architectures],
        PARAMETERS: [float(space.params(a)) for a in architectures],
    }


class AccuracyOracle(Protocol):
    """Rates architectures: the same one gets the same rating, in any process and in any order."""

    def rate(self, architecture: Architecture) -> float:
        """Return an accuracy in [0, 1] on validation images, or a score in [0, 1] that stands for one."""
        ...


@dataclass(frozen=True)
class Task:
    """A space, the data to train on, and where a trained supernet lies: all that a worker needs to know.

    ``parted`` tells that the supernet leaves a part of the training images for a distribution to learn from. ``rating``
    is what the supernet's ratings are made of, where they are not the inherited accuracies themselves. ``blockwise``
    tells that the supernet is trained stage by stage, without labels; it lies in a folder then.
    """

    space: SearchSpace
    data: str
    size: Shape | int | None
    cache: Path
    seed: int
    supernet: Path | None
    supernet_recipe: Recipe
    parted: bool = False
    supernet_paths: PathKind = "single"
    rating: StackedRating | None = None
    blockwise: bool = False

    def __getstate__(self) -> dict[str, object]:
        """Leave the decoded data behind: a worker maps it from the cache instead of receiving a copy."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @cached_property
    def dataset(self) -> Dataset:
        """The decoded data."""
        return load_dataset(self.data, self.size, self.seed, self.cache)

    @cached_property
    def supernet_data(self) -> Dataset:
        """What the supernet is trained on."""
        return parted(self.dataset)[0] if self.parted else self.dataset

    @cached_property
    def rating_split(self) -> Split:
        """A fixed sample of the validation split."""
        return self.sampled(self.dataset.val)

    def sampled(self, split: Split) -> Split:
        """Return a fixed sample of a split, large enough to compare networks on."""
        rows = np.sort(np.random.default_rng(self.seed).permutation(len(split))[:RATING_IMAGES])
        return Split(split.images[rows], split.labels[rows])

    def train_supernet(self, progress: Progress = lambda done, total: None) -> Supernet:
        """Return the trained supernet; its checkpoint is resumed, or read if it is whole."""
        if self.blockwise:
            return self.train_blockwise(progress).supernet
        assert self.supernet is not None
        supernet = Supernet(self.space, self.seed)
        data, recipe, seed = self.supernet_data, self.supernet_recipe, self.seed
        return supernet.fit(data, recipe, seed, self.supernet, progress, self.supernet_paths)

    def train_blockwise(self, progress: Progress = lambda done, total: None) -> Blockwise:
        """Return the supernet that was trained stage by stage, and what its paths are worth; resumed or read alike."""
        assert self.supernet is not None
        found = Blockwise(self.space, self.dataset, self.supernet_recipe, self.seed)
        return found.fit(self.supernet, progress)

    def fresh(self, architecture: Architecture, repeat: int = 0) -> nn.Module:
        """Return an untrained network whose weights depend on seed, architecture and ``repeat`` alone."""
        digest = hashlib.sha256(f"{self.seed + repeat} {architecture.text}".encode()).digest()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int.from_bytes(digest[:7], "big"))
            return self.space.build(architecture)

    def require_sound(self, architecture: Architecture) -> None:
        """Raise ``Unsound`` for an architecture whose fresh network cannot learn."""
        require_sound(self.fresh(architecture), self.dataset, self.seed)

    def naswot(self, architecture: Architecture) -> float:
        """Return the naswot score of an untrained network on the first training images."""
        data = self.dataset
        images = to_tensor(data.train.images[:NASWOT_IMAGES], data.mean, data.std)
        return naswot(self.fresh(architecture), images)


class SupernetOracle:
    """Inherited weights, batch norm recalibrated for the architecture, accuracy on the rating split.

    Where the task has a ``rating``, that predicts the accuracy after training from it and from what is known for free.
    """

    def __init__(self, task: Task) -> None:
        self._task = task
        self.supernet = task.train_supernet()

    def rate(self, architecture: Architecture) -> float:
        """Return the inherited or the predicted accuracy, in [0, 1]."""
        task = self._task
        network = recalibrate(self.supernet.inherit(architecture), task.dataset)
        inherited = accuracy(network, task.rating_split, task.dataset)
        if task.rating is None:
            return inherited
        scores = {INHERITED: [inherited], **counts(task.space, [architecture]), NASWOT: [task.naswot(architecture)]}
        return float(task.rating.predict(scores)[0])


class BlockwiseOracle:
    """How well the paths of a network agree with all paths of a supernet that was trained without labels: a score."""

    def __init__(self, task: Task) -> None:
        self._blockwise = task.train_blockwise()

    def rate(self, architecture: Architecture) -> float:
        """Return the score in [0, 1], see ``blockwise.agreement``."""
        return agreement(self._blockwise.losses_of(architecture))


class TrainOracle:
    """Training from scratch for a few epochs, accuracy on the rating split.

    ``tried`` tells to try networks first where the space is fragile.
    """

    def __init__(self, task: Task, epochs: int, tried: bool = True) -> None:
        self._task = task
        self._recipe = Recipe(epochs)
        self._tried = tried and task.space.fragile

    def rate(self, architecture: Architecture) -> float:
        """Return the accuracy in [0, 1] after the short training.

        Raises:
            Unsound: the network cannot learn.
        """
        data = self._task.dataset
        if self._tried:
            self._task.require_sound(architecture)
        network = train(self._task.fresh(architecture), data, self._recipe, self._task.seed)
        return accuracy(network, self._task.rating_split, data)


RungJob = tuple[Architecture, int]
"""An architecture and the epoch to train it to."""


class RungOracle:
    """The training of ``TrainOracle`` in parts: each job goes on from where the last one of its architecture ended.

    The learning rate follows the schedule of all ``epochs``, so the last part ends with the very network that
    ``TrainOracle`` rates. Earlier accuracies are those of networks in mid-training: they compare at equal epochs alone.

    Args:
        task: see ``Task``.
        epochs: of the whole training.
        folder: where unfinished networks are kept, each in its ``rung_checkpoint``.
    """

    def __init__(self, task: Task, epochs: int, folder: Path) -> None:
        self._task = task
        self._recipe = Recipe(epochs)
        self._folder = folder

    def rate(self, job: RungJob) -> float:
        """Return the accuracy in [0, 1] after the epochs of ``job``.

        Raises:
            Unsound: the network cannot learn.
        """
        (architecture, until), task = job, self._task
        checkpoint = rung_checkpoint(self._folder, architecture)
        if task.space.fragile and not checkpoint.exists():
            task.require_sound(architecture)
        network = train(task.fresh(architecture), task.dataset, self._recipe, task.seed, checkpoint, until=until)
        return accuracy(network, task.rating_split, task.dataset)


def rung_checkpoint(folder: Path, architecture: Architecture) -> Path:
    """Return where the unfinished network of an architecture is kept."""
    return folder / f"{architecture.id}.safetensors"


OracleKind = Literal["supernet", "blockwise", "train"]


def make_oracle(kind: OracleKind, task: Task, proxy_epochs: int) -> AccuracyOracle:
    """Return the oracle of ``--oracle``."""
    if kind == "supernet":
        return SupernetOracle(task)
    return BlockwiseOracle(task) if kind == "blockwise" else TrainOracle(task, proxy_epochs)


def rating_name(oracle: str) -> str:
    """Return what the ratings of ``--oracle`` are called."""
    return BLOCKWISE if oracle == "blockwise" else ACCURACY
