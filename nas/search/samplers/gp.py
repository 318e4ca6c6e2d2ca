"""The Gaussian-process sampler: expected hypervolume improvement with known latency."""

from collections.abc import Callable, Sequence

import numpy as np
from optuna.study import Study

from nas.search.candidates import Architectures
from nas.search.proposal import Proposer
from nas.search.record import evaluated_trials, pending_architectures, stopped_architectures, unsound_architectures
from nas.search.samplers.proposing import ProposingSampler
from search_spaces.architecture import Architecture
from search_spaces.space import SearchSpace, sample_spread


class GPSampler(ProposingSampler):
    """Propose the feasible architecture with the highest expected hypervolume improvement.

    A Gaussian process is fitted to all ratings so far; with several devices the gains of all their fronts count. What
    is over a budget is not proposed, unless nothing new within it is found: such a trial is told at once and never
    evaluated. What is being evaluated elsewhere counts as what it is predicted to be, and networks that cannot learn as
    what guessing gets.

    Args:
        space, latencies, budgets_ms, seed: see ``ProposingSampler``.
        source: where candidates come from.
    """

    def __init__(
        self,
        space: SearchSpace,
        latencies: Sequence[Callable[[Architecture], float]],
        budgets_ms: Sequence[float | None],
        seed: int,
        source: Architectures,
    ) -> None:
        super().__init__(space, latencies, budgets_ms, seed)
        self._source = source
        self._proposer = Proposer(source, budgets_ms)

    def propose(self, study: Study, number: int) -> Architecture:
        """Return the architecture of trial ``number``."""
        rng = np.random.default_rng([self._seed, number])
        done = evaluated_trials(study, self._space)
        unsound = unsound_architectures(study, self._space, number)
        observed = self._source.of([*(trial.architecture for trial in done), *unsound])
        pending = self._source.of(pending_architectures(study, self._space, number))
        stopped = self._source.of(stopped_architectures(study, self._space, number))
        accuracies = np.array([*(trial.accuracy for trial in done), *(1 / self._space.classes for _ in unsound)])
        found = self._proposer.propose(observed, accuracies, pending, rng, stopped.keys)
        return sample_spread(self._space, rng) if found is None else self._source.architecture(found)
