"""The Gaussian-process sampler: expected hypervolume improvement with known latency."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from optuna.study import Study

from nas.search.acquisition import expected_hypervolume_improvement
from nas.search.pareto import front_levels, non_dominated
from nas.search.record import Evaluated, evaluated_trials, unrated_ids
from nas.search.samplers.proposing import ProposingSampler
from predictors.features import feature_matrix
from predictors.gp import AccuracyGP
from search_spaces.architecture import Architecture
from search_spaces.space import crossover, mutate, sample_spread

# Below this many ratings a fit says little more than the features themselves.
FIRST_FIT = 8
RANDOM_CANDIDATES = 300
GENERATIONS = 3
CHILDREN = 200
PARENTS = 20


class GPSampler(ProposingSampler):
    """Propose the feasible architecture with the highest expected hypervolume improvement.

    A Gaussian process is fitted to all ratings so far; candidates are random architectures and, over a few
    generations, mutations and crossovers of the front and of the best candidates. With several devices the trials take
    turns at improving each device's front.
    """

    def propose(self, study: Study, number: int) -> Architecture:
        """Return the architecture of trial ``number``."""
        rng = np.random.default_rng([self._seed, number])
        done = evaluated_trials(study, self._space)
        seen = {trial.architecture.id for trial in done} | unrated_ids(study, number)
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
