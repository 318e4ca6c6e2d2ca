"""Differentiable search: a distribution over architectures, learned by gradients at a latency budget.

FBNet (CVPR 2019, arXiv 1812.03443, section 3.2) mixes all candidates of a layer by Gumbel-softmax weights. Here two
operators per layer are mixed, drawn by the same Gumbel noise, which costs a fraction of that; all widths of theirs come
at the price of one, as masks (FBNetV2, CVPR 2020, arXiv 2004.05565, section 3.1). FP-NAS (CVPR 2021, arXiv
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

from nas.search.distribution import MEAN_USED, Probabilities, decisions_of, draw, probabilities_of
from nas.search.expected import Latency, at_budget, expected_latency
from nas.search.target import TableTarget
from nas.training.data import Dataset, Split, batches, parted
from nas.training.hardware import device
from nas.training.oracle import Task
from nas.training.supernet import Supernet
from nas.training.train import Progress, Recipe, fit
from search_spaces.block import shape_text
from search_spaces.chain import Position
from search_spaces.errors import InputError
from search_spaces.space import SearchSpace, replay

Estimator = Literal["mixed", "sampled"]
# Temperature of the Gumbel-softmax at the first step and at the last (FBNet's public re-implementations).
_WARM, _COLD = 5.0, 0.1
_RATE = 0.05
# The weights are trained already.
_WEIGHTS_RATE = 0.03
# Operators of each layer that are mixed in a step.
MIXED = 2
# Architectures per step and nat of entropy (FP-NAS, section 3.3), but never fewer than can be compared.
_PER_NAT = 0.25
_FEWEST = 2


def require_layers(space: SearchSpace) -> list[Position]:
    """Return the layers of a space.

    Raises:
        InputError: its blocks do not follow one another, or the candidates of a layer differ in height or width.
    """
    chain = space.chain()
    if chain is None:
        raise InputError(
            f"--sampler dnas mixes the candidates of layers that follow one another, which {space.name} "
            "does not consist of; --sampler fpnas takes any space"
        )
    for i, position in enumerate(chain[1:], 1):
        if position.resizes:
            found = ", ".join(map(shape_text, sorted(position.out_shapes)))
            raise InputError(f"--sampler dnas: the candidates of layer {i} of {space.name} differ in size: {found}")
    return chain


@dataclass
class Search:
    """The state of a differentiable search and its steps.

    ``logits`` are those before the budget; ``at_budget`` shifts them until the expected latency is the budget, so
    that gradients decide only between distributions of that latency.
    """

    space: SearchSpace
    supernet: Supernet
    latency: Latency
    budget_ms: float
    estimator: Estimator

    def __post_init__(self) -> None:
        self.options = decisions_of(self.space)
        self.logits = {name: torch.zeros(len(every), requires_grad=True) for name, every in self.options.items()}
        if self.estimator == "mixed":
            chain = require_layers(self.space)
            self._operators = {position.operator for position in chain}
            self._resolution = chain[0].operator if chain[0].resizes else None
            self._mixture = self.supernet.mixture()
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
        return at_budget(self.logits, self.latency, self.budget_ms)

    def probabilities(self) -> Probabilities:
        """Return the distribution at the budget."""
        return probabilities_of(self.at_budget(), self.options)

    def step(self, images: Tensor, labels: Tensor, rng: np.random.Generator, done: float) -> Probabilities:
        """Improve the distribution by one batch, and return what it was before.

        ``done`` in [0, 1] is how far the search has come.
        """
        logits = self.at_budget()
        before = probabilities_of(logits, self.options)
        if self.estimator == "mixed":
            loss = self._mixed(logits, images, labels, rng, done)
        else:
            loss = self._sampled(logits, before, images, labels, rng)
        self._adam.zero_grad()
        loss.backward()
        self._adam.step()
        return before

    def _mixed(
        self, logits: Mapping[str, Tensor], images: Tensor, labels: Tensor, rng: np.random.Generator, done: float
    ) -> Tensor:
        """Return the loss of Gumbel-softmax weights over the operators that the noise favours, and over all widths."""
        temperature = _WARM * (_COLD / _WARM) ** done
        weights: dict[str, Tensor] = {}
        for name, values in logits.items():
            noisy = values + torch.from_numpy(rng.gumbel(size=len(values))).float()
            kept = noisy.topk(MIXED if name in self._operators and len(noisy) > MIXED else len(noisy))
            chances = F.softmax(kept.values / temperature, dim=0)
            weights[name] = torch.zeros_like(noisy).scatter(0, kept.indices, chances).to(device())
        branches = self._branches(weights)
        each = max(1, len(images) // len(branches))
        losses = [
            share * F.cross_entropy(self._mixture(chosen, images[:each]), labels[:each]) for share, chosen in branches
        ]
        return torch.stack(losses).sum()

    def _branches(self, weights: dict[str, Tensor]) -> list[tuple[Tensor, dict[str, Tensor]]]:
        """Return the resolutions that are mixed, each with its weight and the weights of all else.

        Feature maps of different sizes cannot be added up without misplacing or inventing pixels, and every layer
        depends on a size that is chosen once, so the losses are mixed: each resolution sees the same part of
        the batch, which takes the time and memory of one that sees all. A straight-through weight on the resized
        image would have no gradient: batch norm divides it out.
        """
        if self._resolution is None:
            return [(torch.ones((), device=device()), weights)]
        mixed = weights[self._resolution]
        sole = torch.eye(len(mixed), device=mixed.device)
        return [(mixed[i], {**weights, self._resolution: sole[i]}) for i in mixed.detach().nonzero().flatten().tolist()]

    def _sampled(
        self,
        logits: Mapping[str, Tensor],
        before: Probabilities,
        images: Tensor,
        labels: Tensor,
        rng: np.random.Generator,
    ) -> Tensor:
        """Return the score-function loss of sampled architectures, weighed by how well each explains each image."""
        logs = {name: F.log_softmax(values, dim=0) for name, values in logits.items()}
        entropy = -sum(float((values.exp() * values).sum().detach()) for values in logs.values())
        count = max(_FEWEST, round(_PER_NAT * entropy))
        drawn = [draw(self.space, before, rng) for _ in range(count)]
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
        chances = search.step(seen.to(device()), answers.to(device()), rng, float(counter) / steps)
        path = replay(search.space, draw(search.space, chances, rng))
        return F.cross_entropy(search.supernet.forward(path, images), labels)

    fit(search.supernet.parameters, loss, weights_data, recipe, seed, checkpoint, progress, state)
    return search.probabilities()


def learn_at_budget(
    task: Task, targets: Sequence[TableTarget], estimator: Estimator, checkpoint: Path, progress: Progress
) -> Probabilities:
    """Learn the distribution of a run, with half of the supernet's epochs, at the budget of the tightest device.

    Its mean uses ``MEAN_USED`` of the budget.

    Raises:
        InputError: the space has no layers to mix, or ``checkpoint`` is damaged.
    """
    options = decisions_of(task.space)
    flat = {name: torch.full((len(every),), 1 / len(every), dtype=torch.float64) for name, every in options.items()}
    found = [(expected_latency(task.space, t.table, task.seed), t.budget_ms) for t in targets if t.budget_ms]
    latency, budget_ms = max(found, key=lambda each: float(each[0](flat)) / each[1])
    recipe = replace(task.supernet_recipe, epochs=max(1, task.supernet_recipe.epochs // 2), learning_rate=_WEIGHTS_RATE)
    search = Search(task.space, task.train_supernet(), latency, MEAN_USED * budget_ms, estimator)
    return learn(search, task.dataset, recipe, task.seed, checkpoint, progress)
