"""Networks that are chosen without any search, to stand beside those of one."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from nas.search.target import Target, over_budget
from search_spaces.architecture import Architecture
from search_spaces.even import nearest_to_even_steps
from search_spaces.space import SearchSpace, sample_spread

Predict = Callable[[Architecture], float]
"""Returns the latency (ms) of an architecture."""

LARGEST = "largest"
"""The origin of a network that has the most MACs of its latency bin."""

# Beyond this many draws, bins gain next to nothing by more; the local search does the rest.
_DRAWS = 2000
# So many changes of one decision in a row that make nothing larger end the local search.
_PATIENCE = 200


def keeps(architecture: Architecture, targets: Sequence[Target]) -> bool:
    """Tell whether an architecture is within the budget of every device."""
    ms = [target.predict_ms(architecture) for target in targets]
    return all(excess <= 0 for excess in over_budget(targets, ms).values())


def family_within(space: SearchSpace, targets: Sequence[Target]) -> list[Architecture]:
    """Return the hand-made family as far as it keeps every budget, by rising latency on the first device."""
    return sorted((a for a in space.baseline_family() if keeps(a, targets)), key=targets[0].predict_ms)


def latency_range(space: SearchSpace, targets: Sequence[Target], seed: int) -> tuple[float, float]:
    """Return the latencies (ms) of the fastest and the slowest of many draws on the first device, within its budget."""
    ms = [ms for _, ms in _draws(space, targets[0].predict_ms, np.random.default_rng(seed))]
    return min(ms), min(max(ms), targets[0].budget_ms or max(ms))


def spread_family(space: SearchSpace, targets: Sequence[Target], count: int) -> list[Architecture]:
    """Return ``count`` members of ``family_within``, or all if they are fewer, spread evenly over log latency.

    Latency alone decides, so that no knowledge about accuracies makes the baseline better or worse than it is.
    """
    members = family_within(space, targets)
    ms = [targets[0].predict_ms(a) for a in members]
    fastest = min((each for each in ms if each > 0), default=1.0)
    chosen = nearest_to_even_steps([math.log(max(each, fastest)) for each in ms], count) if members else []
    return [members[i] for i in chosen]


def random_per_bin(
    space: SearchSpace, predict_ms: Predict, low_ms: float, high_ms: float, count: int, seed: int
) -> list[Architecture]:
    """Return a random network of each of ``count`` equal bins of log latency, by rising latency; empty bins have none.

    What is drawn leans towards one option (``sample_spread``), as uniform draws leave the fast end empty.
    """
    rng = np.random.default_rng(seed)
    edges = np.geomspace(low_ms, high_ms, count + 1)
    drawn = _draws(space, predict_ms, rng)
    bins = [[a for a, ms in drawn if low <= ms <= high] for low, high in pairwise(edges)]
    return [known[int(rng.integers(len(known)))] for known in bins if known]


def largest_per_bin(
    space: SearchSpace, predict_ms: Predict, low_ms: float, high_ms: float, count: int, seed: int
) -> list[Architecture]:
    """Return the network with the most MACs of each of ``count`` equal bins of log latency, by rising latency.

    The largest of many draws is improved by changes of one decision that stay in the bin, as long as some make it
    larger: the largest that is found, without a proof that none is larger. Empty bins have none.
    """
    rng = np.random.default_rng(seed)
    drawn = _draws(space, predict_ms, rng)
    found = []
    for low, high in pairwise(np.geomspace(low_ms, high_ms, count + 1)):
        known = [a for a, ms in drawn if low <= ms <= high]
        if known:
            found.append(_grown(space, max(known, key=space.macs), predict_ms, (low, high), rng))
    return list({a.id: a for a in found}.values())


def _draws(space: SearchSpace, predict_ms: Predict, rng: np.random.Generator) -> list[tuple[Architecture, float]]:
    drawn = {a.id: a for a in (sample_spread(space, rng) for _ in range(_DRAWS))}
    return [(a, predict_ms(a)) for a in drawn.values()]


def _grown(
    space: SearchSpace, best: Architecture, predict_ms: Predict, within_ms: tuple[float, float],
    rng: np.random.Generator,
) -> Architecture:  # fmt: skip
    macs, failed = space.macs(best), 0
    while failed < _PATIENCE:
        other = space.mutate(best, rng)
        failed += 1
        if space.macs(other) > macs and within_ms[0] <= predict_ms(other) <= within_ms[1]:
            best, macs, failed = other, space.macs(other), 0
    return best
