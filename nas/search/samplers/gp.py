"""The Gaussian-process sampler: expected hypervolume improvement with known latency."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from nas.search.acquisition import expected_hypervolume_improvement
from nas.search.pareto import front_levels, non_dominated
from nas.search.record import Evaluated, evaluated_trials, pending_ids
from predictors.features import feature_matrix
from predictors.gp import AccuracyGP
from search_spaces.architecture import Architecture
from search_spaces.space import SearchSpace, crossover, mutate, sample_spread

# Below this many ratings a fit says little more than the features themselves.
FIRST_FIT = 8
RANDOM_CANDIDATES = 300
GENERATIONS = 3
CHILDREN = 200
PARENTS = 20


class GPSampler(BaseSampler):
    """Propose the feasible architecture with the highest expected hypervolume improvement.

    A Gaussian process is fitted to all ratings so far; candidates are random architectures and, over a few
    generations, mutations and crossovers of the front and of the best candidates. Each proposal is a function of the
    seed, the trial's number and the recorded trials, so a resumed study proposes what it would have
    proposed. With several devices the trials take turns at improving each device's front.

    Args:
        space: what to search.
        latencies: one function per device, architecture to predicted ms.
        budgets_ms: one budget per device, None for none.
        seed: the seed of the search.
    """

    def __init__(
        self,
        space: SearchSpace,
        latencies: Sequence[Callable[[Architecture], float]],
        budgets_ms: Sequence[float | None],
        seed: int,
    ) -> None:
        self._space = space
        self._latencies = latencies
        self._budgets_ms = budgets_ms
        self._seed = seed
        self._proposals: dict[int, Architecture] = {}

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Propose an architecture; its decisions are the search space of this trial."""
        architecture = self.propose(study, trial.number)
        self._proposals[trial.number] = architecture
        recorded = dict(architecture.decisions)
        distributions: dict[str, BaseDistribution] = {}

        def choose(name: str, options: Sequence[str]) -> str:
            distributions[name] = CategoricalDistribution(tuple(options))
            return recorded[name]

        self._space.decide(choose)
        return distributions

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the decisions of the proposal."""
        return dict(self._proposals.pop(trial.number).decisions)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Refuse: a proposal covers every decision of its architecture."""
        raise RuntimeError(f"the proposal of trial {trial.number} has no decision {param_name!r}")

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """Nothing to do: all state is in the study."""

    def feasible(self, architecture: Architecture) -> bool:
        """Tell whether the architecture keeps every device's budget, by its table."""
        return all(
            budget is None or latency(architecture) <= budget
            for latency, budget in zip(self._latencies, self._budgets_ms, strict=True)
        )

    def propose(self, study: Study, number: int) -> Architecture:
        """Return the architecture of trial ``number``."""
        rng = np.random.default_rng([self._seed, number])
        done = evaluated_trials(study, self._space)
        seen = {trial.architecture.id for trial in done} | pending_ids(study, number)
        pool = self._fresh([sample_spread(self._space, rng) for _ in range(RANDOM_CANDIDATES)], seen)
        if len(done) < FIRST_FIT:
            return pool[0] if pool else sample_spread(self._space, rng)
        score = self._scorer(done, number % len(self._latencies))
        elite = _front(done, number % len(self._latencies))
        scores = score(pool) if pool else np.empty(0)
        for _ in range(GENERATIONS):
            best = [pool[i] for i in np.argsort(-scores)[:PARENTS]]
            children = [self._child([*elite, *best], rng) for _ in range(CHILDREN)]
            known = seen | {architecture.id for architecture in pool}
            fresh = self._fresh(children, known)
            if fresh:
                pool, scores = [*pool, *fresh], np.append(scores, score(fresh))
        return pool[int(np.argmax(scores))] if pool else sample_spread(self._space, rng)

    def _child(self, parents: list[Architecture], rng: np.random.Generator) -> Architecture:
        first, second = (parents[i] for i in rng.integers(len(parents), size=2))
        child = crossover(self._space, first, second, rng) if rng.random() < 0.5 else first
        return mutate(self._space, child, rng)

    def _fresh(self, drawn: list[Architecture], known: set[str]) -> list[Architecture]:
        distinct = {a.id: a for a in drawn if a.id not in known}
        return [a for a in distinct.values() if self.feasible(a)]

    def _scorer(self, done: list[Evaluated], device: int) -> Callable[[list[Architecture]], NDArray]:
        accuracies = np.array([trial.accuracy for trial in done])
        predictor = AccuracyGP().fit(feature_matrix(self._space, [t.architecture for t in done]), accuracies)
        points = [(trial.accuracy, trial.ms[device]) for trial in done]
        steps_ms, levels = front_levels(points, float(accuracies.min()))
        budget = self._budgets_ms[device]
        ceiling = budget if budget is not None else 1.1 * max(ms for _, ms in points)

        def score(candidates: list[Architecture]) -> NDArray:
            mean, std = predictor.predict(feature_matrix(self._space, candidates), return_std=True)
            ms = np.array([self._latencies[device](a) for a in candidates])
            return expected_hypervolume_improvement(mean, std, ms, steps_ms, levels, ceiling)

        return score


def _front(done: list[Evaluated], device: int) -> list[Architecture]:
    keep = non_dominated([(trial.accuracy, trial.ms[device]) for trial in done])
    return [trial.architecture for trial, kept in zip(done, keep, strict=True) if kept]
