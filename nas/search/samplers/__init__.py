"""Optuna samplers over search spaces."""

from collections.abc import Sequence
from typing import Literal

from optuna.samplers import BaseSampler, NSGAIISampler, TPESampler

from nas.search.candidates import source_of
from nas.search.distribution import Probabilities
from nas.search.dnas import Estimator
from nas.search.samplers.drawn import DrawingSampler
from nas.search.samplers.evolution import EvolutionSampler
from nas.search.samplers.gp import GPSampler
from nas.search.samplers.learned import LearnedSampler
from nas.search.samplers.seeded import SeededSampler
from nas.search.target import TableTarget, Target
from search_spaces.space import SearchSpace

SamplerKind = Literal["gp", "evolution", "dnas", "fpnas", "random", "tpe", "nsga2"]
LEARNED: dict[str, Estimator] = {"dnas": "mixed", "fpnas": "sampled"}
"""The samplers that draw from a distribution which is learned before the study, and how its gradient is estimated."""


def make_sampler(
    kind: SamplerKind,
    space: SearchSpace,
    targets: Sequence[Target],
    seed: int,
    learned: Probabilities | None = None,
) -> BaseSampler:
    """Return the sampler of ``--sampler``; all of them resume to the same trials. ``learned`` is for ``LEARNED``."""
    predict, budgets_ms = [target.predict_ms for target in targets], [target.budget_ms for target in targets]
    if kind == "gp":
        source = source_of(space, predict, [t.predict_grid_ms if isinstance(t, TableTarget) else None for t in targets])
        return GPSampler(space, predict, budgets_ms, seed, source)
    if kind == "evolution":
        return EvolutionSampler(space, predict, budgets_ms, seed)
    if kind in LEARNED:
        assert learned is not None
        return LearnedSampler(space, predict, budgets_ms, seed, learned)
    if kind == "random":
        return DrawingSampler(space, predict, budgets_ms, seed)
    if kind == "tpe":
        return SeededSampler(lambda s: TPESampler(seed=s, multivariate=True, constant_liar=True), seed)
    return SeededSampler(lambda s: NSGAIISampler(seed=s, population_size=20), seed)
