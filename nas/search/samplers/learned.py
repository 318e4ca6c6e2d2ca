"""Sampling from a distribution that was learned before the study."""

from collections.abc import Callable, Sequence

import numpy as np
from optuna.study import Study

from nas.search.distribution import Probabilities, draw, most_probable
from nas.search.record import evaluated_trials, unrated_ids
from nas.search.samplers.proposing import ProposingSampler
from search_spaces.architecture import Architecture
from search_spaces.space import SearchSpace, replay

_DRAWS = 200


class LearnedSampler(ProposingSampler):
    """Propose the most probable architecture first, then draws from the distribution (FBNet, CVPR 2019, section 3.2).

    What is over a budget or was proposed before is drawn again, as long as the distribution has anything else
    to offer.

    Args:
        space, latencies, budgets_ms, seed: see ``ProposingSampler``.
        probabilities: decision -> option -> probability.
    """

    def __init__(
        self,
        space: SearchSpace,
        latencies: Sequence[Callable[[Architecture], float]],
        budgets_ms: Sequence[float | None],
        seed: int,
        probabilities: Probabilities,
    ) -> None:
        super().__init__(space, latencies, budgets_ms, seed)
        self._probabilities = probabilities

    def propose(self, study: Study, number: int) -> Architecture:
        """Return the architecture of trial ``number``."""
        rng = np.random.default_rng([self._seed, number])
        seen = {trial.architecture.id for trial in evaluated_trials(study, self._space)} | unrated_ids(study, number)
        drawn = [most_probable(self._space, self._probabilities)]
        while len(drawn) <= _DRAWS:
            if drawn[-1].id not in seen and self.feasible(drawn[-1]):
                return drawn[-1]
            drawn.append(replay(self._space, draw(self._space, self._probabilities, rng)))
        return next((architecture for architecture in drawn if self.feasible(architecture)), drawn[0])
