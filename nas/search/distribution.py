"""A learned distribution over architectures, and its latency: what differentiable search finds."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from latency.files import read_sealed, write_sealed
from search_spaces.architecture import Architecture
from search_spaces.errors import InputError
from search_spaces.space import SearchSpace, replay

SCHEMA_VERSION = 1
Probabilities = Mapping[str, Mapping[str, float]]
"""Decision -> option -> probability; decisions are independent."""
Costs = dict[str, NDArray]
"""Decision -> the share (ms) of each option in a network's latency."""

# Enough draws to meet every option of a space several times.
_DRAWS = 1500
_SUMMARISED = 200
_STEEPEST = 1e3
_BISECTIONS = 50


def decisions_of(space: SearchSpace) -> dict[str, tuple[str, ...]]:
    """Return every decision of a space with its options."""
    rng = np.random.default_rng(0)
    found: dict[str, tuple[str, ...]] = {}

    def choose(name: str, options: Sequence[str]) -> str:
        found[name] = tuple(options)
        return options[int(rng.integers(len(options)))]

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


def additive_costs(space: SearchSpace, predict_ms: Callable[[Architecture], float], seed: int) -> Costs:
    """Split predicted latencies into one cost (ms) per option, by least squares over random architectures.

    A table's prediction is a sum over layers but for the borders between neighbours, of which each option gets its
    average share.
    """
    options = decisions_of(space)
    column = {decision: i for i, decision in enumerate((n, o) for n, every in options.items() for o in every)}
    rng = np.random.default_rng(seed)
    everything = uniform(options)
    drawn = [draw(space, everything, rng) for _ in range(_DRAWS)]
    rows = np.zeros((len(drawn), len(column)))
    for row, taken in zip(rows, drawn, strict=True):
        row[[column[decision] for decision in taken.items()]] = 1
    found = np.linalg.lstsq(rows, np.array([predict_ms(replay(space, taken)) for taken in drawn]), rcond=None)[0]
    return {name: found[[column[name, option] for option in every]] for name, every in options.items()}


def expected_ms(logits: Mapping[str, NDArray], costs: Costs) -> float:
    """Return the expected latency (ms) of the softmax of ``logits``."""
    return float((_softmax(_stacked(logits, -np.inf)) * _stacked(costs, 0.0)).sum())


def multiplier(logits: Mapping[str, NDArray], costs: Costs, budget_ms: float) -> float:
    """Return the coefficient of latency in the exponent at which the expected latency is ``budget_ms``.

    Of all distributions with that latency, ``softmax(logits - coefficient * costs)`` is the nearest to
    ``softmax(logits)`` (in Kullback-Leibler divergence). Expected latency falls with the coefficient, which bisection
    therefore finds; beyond what the space can reach it ends at the fastest or the slowest networks.
    """
    rows, ms = _stacked(logits, -np.inf), _stacked(costs, 0.0)
    span = float(np.ptp(ms))
    low, high = -_STEEPEST / span, _STEEPEST / span
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if (_softmax(rows - middle * ms) * ms).sum() > budget_ms:
            low = middle
        else:
            high = middle
    return high


def _stacked(values: Mapping[str, NDArray], filler: float) -> NDArray:
    """Return one row per decision, shorter ones filled up."""
    rows = np.full((len(values), max(map(len, values.values()))), filler)
    for row, found in zip(rows, values.values(), strict=True):
        row[: len(found)] = found
    return rows


def _softmax(logits: NDArray) -> NDArray:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def probabilities_of(logits: Mapping[str, NDArray], options: Mapping[str, Sequence[str]]) -> Probabilities:
    """Return the softmax of ``logits`` by the options' names."""
    return {
        name: dict(zip(options[name], map(float, _softmax(values)), strict=True)) for name, values in logits.items()
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
