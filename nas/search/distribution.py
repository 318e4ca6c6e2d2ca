"""A learned distribution over architectures, and its latency: what differentiable search finds."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from latency.files import read_sealed, write_sealed
from search_spaces.architecture import Architecture
from search_spaces.errors import InputError
from search_spaces.space import SearchSpace, pick, replay

SCHEMA_VERSION = 1
Probabilities = Mapping[str, Mapping[str, float]]
"""Decision -> option -> probability; decisions are independent."""

LEAST_USED = 0.96
"""Share of a budget that draws for it use at least, as predicted.

Single networks take some percent more or less than predicted, and machines change by as much: what uses the whole
budget by prediction would all be over it once the machine is a little slower.
"""
MEAN_USED = (LEAST_USED + 1) / 2
"""Share of a budget that is the mean of a distribution learned for it: the middle of what draws may use."""
# Enough draws to meet every option of a space several times.
_DRAWS = 1500
_SUMMARISED = 200


def decisions_of(space: SearchSpace) -> dict[str, tuple[str, ...]]:
    """Return every decision of a space with its options."""
    rng = np.random.default_rng(0)
    found: dict[str, tuple[str, ...]] = {}

    def choose(name: str, options: Sequence[str]) -> str:
        found[name] = tuple(options)
        return pick(space, options, rng)

    for _ in range(_DRAWS):  # which decisions there are may depend on others
        space.decide(choose)
    return found


def draw(space: SearchSpace, probabilities: Probabilities, rng: np.random.Generator) -> dict[str, str]:
    """Draw the decisions of an architecture, as they are taken; ``replay`` makes it the canonical one."""
    taken: dict[str, str] = {}

    def choose(name: str, options: Sequence[str]) -> str:
        chances = np.array([probabilities[name][option] for option in options])
        taken[name] = options[int(rng.choice(len(options), p=chances / chances.sum()))]
        return taken[name]

    space.decide(choose)
    return taken


def most_probable(space: SearchSpace, probabilities: Probabilities) -> Architecture:
    """Return the architecture of the most probable option of each decision."""
    return space.decide(lambda name, options: max(options, key=lambda option: probabilities[name][option]))


def probabilities_of(logits: Mapping[str, Tensor], options: Mapping[str, Sequence[str]]) -> Probabilities:
    """Return the softmax of ``logits`` by the options' names."""
    return {
        name: dict(zip(options[name], F.softmax(values.detach().double(), dim=0).tolist(), strict=True))
        for name, values in logits.items()
    }


def uniform(options: Mapping[str, Sequence[str]]) -> Probabilities:
    """Return the distribution in which the options of a decision are all alike."""
    return {name: {option: 1 / len(every) for option in every} for name, every in options.items()}


def summary(
    space: SearchSpace, probabilities: Probabilities, predict_ms: Callable[[Architecture], float]
) -> dict[str, str]:
    """Return what a distribution is like as label and text: its entropy, latency and most probable architecture."""
    rng = np.random.default_rng(0)
    drawn = [predict_ms(replay(space, draw(space, probabilities, rng))) for _ in range(_SUMMARISED)]
    chances = [chance for every in probabilities.values() for chance in every.values() if chance > 0]
    best = most_probable(space, probabilities)
    return {
        "entropy (nats)": f"{abs(sum(chance * math.log(chance) for chance in chances)):.1f}",
        "predicted ms of its draws": f"{np.mean(drawn):.3g} +- {np.std(drawn):.2g}",
        "most probable": f"{best.text} ({predict_ms(best):.3g} predicted ms)",
    }


def save(path: Path, space: SearchSpace, probabilities: Probabilities) -> None:
    """Write a distribution, whole or not at all."""
    write_sealed(path, SCHEMA_VERSION, {"space": space.name, "probabilities": probabilities})


def load(path: Path, space: SearchSpace) -> Probabilities:
    """Read a distribution.

    Raises:
        InputError: the file is missing, damaged, of another schema version or of another space.
    """
    body = read_sealed(path, SCHEMA_VERSION, "learned distribution")
    if body.get("space") != space.name:
        raise InputError(f"{path} is of the space {body.get('space')}, not of {space.name}")
    return dict(body["probabilities"])
