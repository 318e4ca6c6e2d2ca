"""Networks to check a rating on: spread evenly over latency, and over skips at equal latency."""

import math

import numpy as np

from nas.search.target import Target
from predictors.features import features
from search_spaces.architecture import Architecture
from search_spaces.space import SearchSpace, sample_spread

# As many draws leave next to no part of the range of latencies empty.
_DRAWS = 3000


def stratified(space: SearchSpace, target: Target, count: int, seed: int) -> list[Architecture]:
    """Return ``count`` different networks within the target's budget, fastest first; fewer if the space is small.

    Uniform draws are next to equally accurate, and no rating could order them. The range of log latency is split into
    ``count`` equal parts that give one network each, from the low to the high ones of the numbers of skips that occur
    there, in turns (a Latin hypercube: McKay et al., 1979). What empty parts lack is drawn from all others.
    """
    rng = np.random.default_rng(seed)
    drawn = {a.id: a for a in (sample_spread(space, rng) for _ in range(_DRAWS))}
    ms = {identity: target.predict_ms(a) for identity, a in drawn.items()}
    within = [i for i in drawn if target.budget_ms is None or ms[i] <= target.budget_ms]
    if not within:
        return []
    low = math.log(min(ms[i] for i in within))
    width = (math.log(max(ms[i] for i in within)) - low) / count or 1.0
    parts: dict[int, list[str]] = {}
    for identity in within:
        parts.setdefault(min(count - 1, int((math.log(ms[identity]) - low) / width)), []).append(identity)
    ranks = (rng.permutation(count) + 0.5) / count
    chosen = []
    for number, part in sorted(parts.items()):
        skips = {i: _skips(space, drawn[i]) for i in part}
        levels = sorted(set(skips.values()))
        level = levels[int(ranks[number] * len(levels))]
        chosen.append(str(rng.choice([i for i in part if skips[i] == level])))
    others = [i for i in within if i not in chosen]
    missing = min(count - len(chosen), len(others))
    chosen += [others[i] for i in rng.permutation(len(others))[:missing]]
    return [drawn[i] for i in sorted(chosen, key=lambda i: ms[i])]


def _skips(space: SearchSpace, architecture: Architecture) -> float:
    return features(space, architecture)[-1]
