"""Block-wise self-supervised training: the stages of a supernet one after another, rated without any label.

BossNAS (Li et al., ICCV 2021, arXiv 2103.12424, section 3). What is called a block there is a stage here. Each stage
is a pair of networks on shared weights, as in BYOL (arXiv 2006.07733): the online one learns, the target one follows
it as a moving average. Every step draws several paths; each predicts, from one look at an image, the mean of what all
of them say of another look (ensemble bootstrapping). A path is then as good as it agrees with the mean of all paths.

Smaller than there, for a few CPU cores: heads have 256 and 64 features in place of 4096 and 256; the paths of a step
share their two looks; and SGD with momentum takes the place of LARS, which is made for batches of thousands of images.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from nas.training import checkpoint
from nas.training.data import Dataset, to_tensor
from nas.training.hardware import device
from nas.training.mixing import widened
from nas.training.paths import mean_loss
from nas.training.supernet import Supernet
from nas.training.train import Loss, Progress, Recipe, fit
from nas.training.views import view
from search_spaces import stages
from search_spaces.architecture import Architecture
from search_spaces.block import Block
from search_spaces.errors import InputError
from search_spaces.space import SearchSpace, sample
from search_spaces.stages import Stage

PATHS = 4
"""Paths that are drawn for each step, as in the paper."""
POPULATION = 256
"""As many paths of a stage as this are rated and make its centre, as in the paper, where that is all of them."""
IMAGES = 256
"""Validation images, their labels unused, that paths are rated on."""
_HIDDEN, _FEATURES = 256, 64
# The target's decay rises from here to 1 along a cosine (BYOL, section 3.2).
_DECAY = 0.99
_RATE = 0.05
# The loss of a path is -2 times a cosine in each of two directions.
_WORST = 4.0


def distance(online: Tensor, target: Tensor) -> Tensor:
    """Return the loss of predictions (2N, features) of ``target``, the sum of both directions: in [-4, 4].

    Rows are all images by one look, then all by the other.
    """
    return -_WORST * F.cosine_similarity(online, target, dim=1).mean()


def score(losses: Sequence[float]) -> float:
    """Return the score of an architecture by the loss of its path through each stage: 0 is best, 8 a stage worst."""
    return sum(loss + _WORST for loss in losses)


def agreement(losses: Sequence[float]) -> float:
    """Return the same as a rating in [0, 1], of which more is better: the mean of (1 + cosine) / 2 over the stages."""
    return min(1.0, max(0.0, 1 - score(losses) / (2 * _WORST * len(losses))))


def require_stages(space: SearchSpace) -> tuple[list[Stage], Stage]:
    """Return the stages of a space, and the head behind them.

    Raises:
        InputError: its networks have none.
    """
    chain = space.chain()
    if chain is None:
        raise InputError(
            f"--oracle blockwise trains stages that follow one another, which networks of {space.name} do not have: "
            "give --oracle supernet or train"
        )
    return stages.cut(chain)


class _Pair:
    """The online and the target network of a stage, behind the blocks ``before`` it, which are fixed.

    ``online`` and ``target`` hold weights by name: those of the stage's layers, the projector's and, of the online
    network alone, the predictor's. ``step`` counts the training steps, ``steps`` are all of them.
    """

    def __init__(self, supernet: Supernet, stage: Stage, before: Sequence[Block], steps: int, seed: int) -> None:
        self._supernet, self._stage, self._before, self._steps = supernet, stage, before, steps
        self._width = max(shape[0] for shape in stage.positions[-1].out_shapes)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed + stage.start)
            heads = (_head(self._width), _head(_FEATURES))
        self._projector, self._predictor = (head.to(device()) for head in heads)
        places = tuple(f"layers.{i}." for i in range(stage.start, stage.stop))
        followed = {n: p for n, p in supernet.parameters.items() if n.startswith(places)}
        followed |= {f"projector.{name}": p for name, p in self._projector.named_parameters()}
        self.online = followed | {f"predictor.{name}": p for name, p in self._predictor.named_parameters()}
        self.target = {name: p.detach().clone() for name, p in followed.items()}
        self.step = torch.zeros((), dtype=torch.int64)

    def loss(self, space: SearchSpace) -> Loss:
        """Return the loss of a step, on paths drawn from ``space``; labels are not looked at."""
        parameters = list(self.online.values())

        def of_step(images: Tensor, _labels: Tensor, rng: np.random.Generator) -> Tensor:
            self._follow()
            x = self.enter(torch.cat([view(images, rng), view(images, rng)]))
            paths = [self._stage.path(sample(space, rng)) for _ in range(PATHS)]
            wanted = torch.stack([self.projected(path, x) for path in paths]).mean(0).roll(len(images), 0)
            return mean_loss((distance(self.predicted(path, x), wanted) for path in paths), parameters)

        return of_step

    @torch.no_grad()
    def _follow(self) -> None:
        """Move the target towards what the online network has become by the last step."""
        share = (1 - _DECAY) * 0.5 * (1 + math.cos(math.pi * int(self.step) / self._steps))
        for name, value in self.target.items():
            value.lerp_(self.online[name].detach(), share)
        self.step += 1

    @torch.no_grad()
    def enter(self, images: Tensor) -> Tensor:
        """Return what comes into the stage."""
        return self._supernet.run(0, self._before, images)

    @torch.no_grad()
    def projected(self, path: stages.Path, x: Tensor) -> Tensor:
        """Return the normalised projections (N, features) of the target network."""
        return F.normalize(self._project(self.target, path, x), dim=1)

    def predicted(self, path: stages.Path, x: Tensor) -> Tensor:
        """Return the predictions (N, features) of the online network."""
        return _applied(self._predictor, "predictor", self.online, self._project(self.online, path, x))

    def _project(self, weights: Mapping[str, Tensor], path: stages.Path, x: Tensor) -> Tensor:
        blocks = self._stage.blocks(path, (x.shape[1], x.shape[2], x.shape[3]))
        features = self._supernet.run(self._stage.start, blocks, x, weights).mean((2, 3))
        return _applied(self._projector, "projector", weights, widened(features, self._width))


def _head(width: int) -> nn.Module:
    """Return a projector or predictor; its batch norm knows the batch alone, as that of the layers."""
    norm = nn.BatchNorm1d(_HIDDEN, track_running_stats=False)
    return nn.Sequential(nn.Linear(width, _HIDDEN, bias=False), norm, nn.ReLU(), nn.Linear(_HIDDEN, _FEATURES))


def _applied(head: nn.Module, name: str, weights: Mapping[str, Tensor], x: Tensor) -> Tensor:
    own = {inner: weights[f"{name}.{inner}"] for inner, _ in head.named_parameters()}
    found: Tensor = functional_call(head, own, (x,))
    return found


class _Population:
    """The paths of a trained stage, the centre (2N, features) of their projections, and the loss of each.

    ``looks`` are the images (2N, C, H, W) that paths are rated on, made when they are needed, ``count`` their number.
    """

    def __init__(self, pair: _Pair, paths: list[stages.Path], looks: Callable[[], Tensor], count: int) -> None:
        self._pair, self._looks, self.paths = pair, looks, paths
        self._centre = torch.zeros(count, _FEATURES, device=device())
        self._losses = torch.zeros(len(paths), dtype=torch.float64)
        self.losses: dict[stages.Path, float] = {}

    @cached_property
    def _x(self) -> Tensor:
        """What comes into the stage."""
        return self._pair.enter(self._looks())

    def rate(self, path: Path, job: str) -> None:
        """Rate every path, or read the file ``path`` of an earlier session."""
        state = {"centre": self._centre, "path_losses": self._losses}
        if not checkpoint.resume(path, state, job):
            self._centre += torch.stack([self._pair.projected(each, self._x) for each in self.paths]).mean(0)
            for i, each in enumerate(self.paths):
                self._losses[i] = self._distance(each)
            checkpoint.save(path, state, 1, job)
        self.losses = dict(zip(self.paths, self._losses.tolist(), strict=True))

    def loss(self, path: stages.Path) -> float:
        """Return the loss of any path, in [-4, 4]."""
        if path not in self.losses:
            self.losses[path] = self._distance(path)
        return self.losses[path]

    @torch.no_grad()
    def _distance(self, path: stages.Path) -> float:
        """Compare with what the population says of the other look; batch norm is estimated anew for the path."""
        return float(distance(self._pair.predicted(path, self._x), self._centre.roll(len(self._centre) // 2, 0)))

    @property
    def best(self) -> stages.Path:
        """The path of the lowest loss."""
        return min(self.paths, key=lambda path: self.losses[path])


class Blockwise:
    """A supernet whose stages are trained one after another, each behind the best paths of those before it.

    Raises:
        InputError: the networks of the space have no stages.
    """

    def __init__(self, space: SearchSpace, data: Dataset, recipe: Recipe, seed: int) -> None:
        self.stages, self.head = require_stages(space)
        self.supernet = Supernet(space, seed)
        self._space, self._data, self._seed = space, data, seed
        self._recipe = replace(recipe, epochs=math.ceil(recipe.epochs / len(self.stages)), learning_rate=_RATE)
        self._populations: list[_Population] = []

    def fit(self, folder: Path, progress: Progress = lambda done, total: None) -> "Blockwise":
        """Train and rate every stage; resumable after each epoch through the files of ``folder``.

        The epochs of the recipe are shared out among the stages, rounded up.

        Raises:
            TrainingDiverged, InputError: see ``train.fit``.
        """
        data, recipe = self._data, self._recipe
        before: list[Block] = []
        self._populations = []
        steps = recipe.epochs * math.ceil(len(data.train) / recipe.batch_size)
        each = recipe.epochs + 1  # rating a stage counts like an epoch
        for number, stage in enumerate(self.stages):
            pair = _Pair(self.supernet, stage, before, steps, self._seed)
            also = json.dumps(["blockwise", PATHS, stage.start, stage.stop, [block.key for block in before]])
            beside = {"step": pair.step, **{f"target.{name}": value for name, value in pair.target.items()}}

            def told(done: int, _: int, ended: int = number * each) -> None:
                progress(ended + done, len(self.stages) * each)

            path = folder / f"stage{number + 1}.safetensors"
            fit(pair.online, pair.loss(self._space), data, recipe, self._seed, path, told, beside, also=also)
            found = stages.paths(self._space, stage, POPULATION, self._seed)
            population = _Population(pair, found, lambda: self._looks, 2 * min(IMAGES, len(data.val)))
            job = checkpoint.job_of(pair.online, data, recipe, self._seed, json.dumps([also, found]))
            population.rate(folder / f"paths{number + 1}.safetensors", job)
            shape = before[-1].out_shape if before else self._space.input_shape
            before = [*before, *stage.blocks(population.best, shape)]
            self._populations.append(population)
            told(each, each)
        return self

    @cached_property
    def _looks(self) -> Tensor:
        """Two looks at a fixed sample of the validation images, one behind the other."""
        rng, data = np.random.default_rng(self._seed), self._data
        rows = np.sort(rng.permutation(len(data.val))[:IMAGES])
        images = to_tensor(np.asarray(data.val.images[rows]), data.mean, data.std).to(device())
        return torch.cat([view(images, rng), view(images, rng)])

    @property
    def parts(self) -> list[Stage]:
        """All of a network: the stages and the head, which no training without labels reaches."""
        return [*self.stages, self.head]

    @property
    def losses(self) -> list[dict[stages.Path, float]]:
        """The losses of the paths of each part: of all, or of the sample that was rated; of the head 0."""
        rated = [{path: each.losses[path] for path in each.paths} for each in self._populations]
        return [*rated, {(0,) * len(self.head.positions): 0.0}]

    def losses_of(self, architecture: Architecture) -> list[float]:
        """Return the loss of the path that an architecture takes through each stage."""
        parts = zip(self.stages, self._populations, strict=True)
        return [population.loss(stage.path(architecture)) for stage, population in parts]

    def lines(self) -> dict[str, str]:
        """Return for each stage how many of its paths were rated, and the range of their losses."""
        return {
            f"stage {number}": f"{len(losses)} paths{'' if stage.combinations <= POPULATION else ' drawn'}, losses "
            f"{min(losses.values()):.3f} to {max(losses.values()):.3f}"
            for number, (stage, losses) in enumerate(zip(self.stages, self.losses, strict=False), 1)
        }
