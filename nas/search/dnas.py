"""Differentiable search: a distribution over architectures, learned by gradients at a latency budget.

FBNet (CVPR 2019, arXiv 1812.03443, section 3.2) mixes all candidates of a layer by Gumbel-softmax weights. Here two
candidates per layer are mixed, drawn by the same Gumbel noise, which costs a fraction of that; FP-NAS (CVPR 2021, arXiv
2011.10949, section 3) rates whole architectures instead and needs no more memory than one of them. Both share
the weights of one supernet, alternate steps of weights and of the distribution on disjoint images, and know every
latency from the measured table.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nas.search.distribution import (
    Costs,
    Probabilities,
    additive_costs,
    decisions_of,
    draw,
    expected_ms,
    multiplier,
    probabilities_of,
)
from nas.search.target import TableTarget
from nas.training.data import Dataset, Split, batches, parted
from nas.training.oracle import Task
from nas.training.supernet import Supernet
from nas.training.train import Progress, Recipe, device, fit
from search_spaces.architecture import Architecture
from search_spaces.errors import InputError
from search_spaces.space import SearchSpace, replay

Estimator = Literal["mixed", "sampled"]
# Temperature of the Gumbel-softmax at the first step and at the last (FBNet's public re-implementations).
_WARM, _COLD = 5.0, 0.1
_RATE = 0.05
# The weights are trained already.
_WEIGHTS_RATE = 0.03
# Candidates of each layer that are mixed in a step.
MIXED = 2
# Architectures per step and nat of entropy (FP-NAS, section 3.3), but never fewer than can be compared.
_PER_NAT = 0.25
_FEWEST = 2


def require_layers(space: SearchSpace) -> list[int]:
    """Return the position of each decision's block.

    Raises:
        InputError: decisions and blocks do not correspond, or the candidates of a layer differ in their output shape.
    """
    positions = space.positions()
    searched = [i for i, row in enumerate(positions) if len(row) > 1]
    if len(searched) != len(decisions_of(space)):
        raise InputError(
            f"--sampler dnas mixes the candidates of layers that follow one another, which {space.name} "
            "does not consist of; --sampler fpnas takes any space"
        )
    for i in searched:
        shapes = {block.out_shape for block in positions[i]}
        if len(shapes) > 1:
            found = ", ".join("x".join(map(str, shape)) for shape in sorted(shapes))
            raise InputError(f"--sampler dnas: the candidates of layer {i} of {space.name} differ in shape: {found}")
    return searched


@dataclass
class Search:
    """The state of a differentiable search and its steps.

    ``logits`` are those before the budget; ``at_budget`` shifts them by the costs until the expected latency is
    the budget, so that gradients decide only between distributions of that latency.
    """

    space: SearchSpace
    supernet: Supernet
    costs: Costs
    budget_ms: float
    estimator: Estimator

    def __post_init__(self) -> None:
        self.options = decisions_of(self.space)
        self.logits = {name: torch.zeros(len(every), requires_grad=True) for name, every in self.options.items()}
        self._positions = require_layers(self.space) if self.estimator == "mixed" else []
        self._adam = torch.optim.Adam(self.logits.values(), _RATE, betas=(0.5, 0.999))
        for logits in self.logits.values():
            zeros = {key: torch.zeros_like(logits, requires_grad=False) for key in ("exp_avg", "exp_avg_sq")}
            self._adam.state[logits] = {"step": torch.tensor(0.0), **zeros}

    def state(self) -> dict[str, Tensor]:
        """Return all that changes, as tensors that are changed in place."""
        found: dict[str, Tensor] = {}
        for name, logits in self.logits.items():
            found[f"logits.{name}"] = logits
            found |= {f"adam.{name}.{key}": value for key, value in self._adam.state[logits].items()}
        return found

    def at_budget(self) -> dict[str, Tensor]:
        """Return the logits of the distribution whose expected latency is the budget."""
        plain = {name: logits.detach().double().numpy() for name, logits in self.logits.items()}
        coefficient = multiplier(plain, self.costs, self.budget_ms)
        shift = {name: torch.from_numpy(coefficient * cost).float() for name, cost in self.costs.items()}
        return {name: logits - shift[name] for name, logits in self.logits.items()}

    def probabilities(self) -> Probabilities:
        """Return the distribution at the budget."""
        return self._chances(self.at_budget())

    def _chances(self, logits: Mapping[str, Tensor]) -> Probabilities:
        return probabilities_of({name: v.detach().double().numpy() for name, v in logits.items()}, self.options)

    def step(self, images: Tensor, labels: Tensor, rng: np.random.Generator, done: float) -> None:
        """Improve the distribution by one batch; ``done`` in [0, 1] is how far the search has come."""
        mixed = self.estimator == "mixed"
        loss = self._mixed(images, labels, rng, done) if mixed else self._sampled(images, labels, rng)
        self._adam.zero_grad()
        loss.backward()
        self._adam.step()

    def _mixed(self, images: Tensor, labels: Tensor, rng: np.random.Generator, done: float) -> Tensor:
        """Return the loss of Gumbel-softmax weights over the candidates that the noise favours."""
        temperature = _WARM * (_COLD / _WARM) ** done
        chosen: list[list[str]] = []
        weights: dict[int, Tensor] = {}
        for (name, logits), position in zip(self.at_budget().items(), self._positions, strict=True):
            noisy = logits + torch.from_numpy(rng.gumbel(size=len(logits))).float()
            top = noisy.topk(MIXED)
            weights[position] = F.softmax(top.values / temperature, dim=0).to(device())
            chosen.append([self.options[name][i] for i in top.indices])
        paths = [
            Architecture(self.space.name, tuple(zip(self.options, path, strict=True)))
            for path in zip(*chosen, strict=True)
        ]
        return F.cross_entropy(self.supernet.mix(paths, weights, images), labels)

    def _sampled(self, images: Tensor, labels: Tensor, rng: np.random.Generator) -> Tensor:
        """Return the score-function loss of sampled architectures, weighed by how well each explains each image."""
        logs = {name: F.log_softmax(logits, dim=0) for name, logits in self.at_budget().items()}
        entropy = -sum(float((values.exp() * values).sum().detach()) for values in logs.values())
        count, chances = max(_FEWEST, round(_PER_NAT * entropy)), self._chances(logs)
        drawn = [draw(self.space, chances, rng) for _ in range(count)]
        with torch.no_grad():
            scores = [self.supernet.forward(replay(self.space, path), images) for path in drawn]
            likelihoods = torch.stack([-F.cross_entropy(s, labels, reduction="none") for s in scores])
            shares = F.softmax(likelihoods, dim=0).mean(1).cpu() - 1 / count
        taken = [
            torch.stack([logs[name][self.options[name].index(option)] for name, option in path.items()]).sum()
            for path in drawn
        ]
        return -(shares * torch.stack(taken)).sum()


def learn(
    search: Search, data: Dataset, recipe: Recipe, seed: int, checkpoint: Path, progress: Progress
) -> Probabilities:
    """Alternate steps of the weights and of the distribution; resumable through ``checkpoint``. See ``train.fit``.

    The supernet has been trained on ``parted(data)`` before, every path alike, as FBNet freezes the
    distribution at first. From then on the weights follow the distribution.
    """
    weights_data, held = parted(data)
    steps = recipe.epochs * -(-len(weights_data.train) // recipe.batch_size)
    state = search.state()
    counter = next(value for name, value in state.items() if name.endswith(".step"))

    def loss(images: Tensor, labels: Tensor, rng: np.random.Generator) -> Tensor:
        rows = rng.choice(len(held), min(recipe.batch_size, len(held)), replace=False)
        other = Split(held.images[rows], held.labels[rows])
        seen, answers = next(batches(other, data.mean, data.std, recipe.batch_size))
        search.step(seen.to(device()), answers.to(device()), rng, float(counter) / steps)
        path = replay(search.space, draw(search.space, search.probabilities(), rng))
        return F.cross_entropy(search.supernet.forward(path, images), labels)

    fit(search.supernet.parameters, loss, weights_data, recipe, seed, checkpoint, progress, state)
    return search.probabilities()


def learn_at_budget(
    task: Task, targets: Sequence[TableTarget], estimator: Estimator, checkpoint: Path, progress: Progress
) -> Probabilities:
    """Learn the distribution of a run, with half of the supernet's epochs, at the budget of the tightest device.

    It is learned below the budget by the table's error, so that networks that are measured in the end keep it.

    Raises:
        InputError: the space has no layers to mix, or ``checkpoint`` is damaged.
    """
    flat = {name: np.zeros(len(options)) for name, options in decisions_of(task.space).items()}
    split = [
        (additive_costs(task.space, t.predict_ms, task.seed), t.budget_ms * (1 - t.table.quality.mape_percent / 100))
        for t in targets
        if t.budget_ms
    ]
    costs, aim_ms = max(split, key=lambda found: expected_ms(flat, found[0]) / found[1])
    recipe = replace(task.supernet_recipe, epochs=max(1, task.supernet_recipe.epochs // 2), learning_rate=_WEIGHTS_RATE)
    search = Search(task.space, task.train_supernet(), costs, aim_ms, estimator)
    return learn(search, task.dataset, recipe, task.seed, checkpoint, progress)
