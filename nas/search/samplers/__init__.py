"""Optuna samplers over search spaces."""

from collections.abc import Sequence
from typing import Literal

from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler

from nas.search.samplers.gp import GPSampler
from nas.search.samplers.seeded import SeededSampler
from nas.search.study import Target
from search_spaces.space import SearchSpace

SamplerKind = Literal["gp", "random", "tpe", "nsga2"]


def make_sampler(kind: SamplerKind, space: SearchSpace, targets: Sequence[Target], seed: int) -> BaseSampler:
    """Return the sampler of ``--sampler``; all of them resume to the same trials."""
    if kind == "gp":
        predict = [target.predict_ms for target in targets]
        return GPSampler(space, predict, [target.budget_ms for target in targets], seed)
    if kind == "random":
        return SeededSampler(lambda s: RandomSampler(seed=s), seed)
    if kind == "tpe":
        return SeededSampler(lambda s: TPESampler(seed=s, multivariate=True, constant_liar=True), seed)
    return SeededSampler(lambda s: NSGAIISampler(seed=s, population_size=20), seed)
