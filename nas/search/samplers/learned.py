"""Sampling from a distribution that was learned before the study."""

from collections.abc import Callable, Collection, Sequence

import numpy as np
from optuna.study import Study

from nas.search.distribution import LEAST_USED, Probabilities, draw, most_probable
from nas.search.record import evaluated_trials, unrated_ids
from nas.search.samplers.proposing import ProposingSampler
from search_spaces.architecture import Architecture
from search_spaces.space import SearchSpace, replay

_DRAWS = 300


def next_draw(
    space: SearchSpace,
    probabilities: Probabilities,
    used: Callable[[Architecture], float],
    seen: Collection[str],
    rng: np.random.Generator,
) -> Architecture:
    """Return an architecture that uses the budget and whose id is not in ``seen``.

    ``used`` tells the share of the budget that an architecture takes. The most probable architecture
    comes first, then draws. If ``_DRAWS`` of them hold nothing new between ``LEAST_USED`` and 1, the nearest to that
    is returned; nor anything new within the budget: a draw that was seen before; nor that: the most probable.
    """
    best = drawn = most_probable(space, probabilities)
    distances: dict[str, tuple[float, Architecture]] = {}
    for _ in range(_DRAWS):
        if drawn.id not in distances:
            share = used(drawn)
            distances[drawn.id] = (max(0.0, LEAST_USED - share) if share <= 1 else np.inf, drawn)
            if LEAST_USED <= share <= 1 and drawn.id not in seen:
                return drawn
        if distances[drawn.id][0] < np.inf:
            best = drawn
        drawn = replay(space, draw(space, probabilities, rng))
    new = [found for key, found in distances.items() if key not in seen and found[0] < np.inf]
    return min(new, key=lambda found: found[0])[1] if new else best


class LearnedSampler(ProposingSampler):
    """Propose what a distribution holds just below the budget (FBNet, CVPR 2019, section 3.2, draws from all of it).

    Args:
        space, latencies, budgets_ms, seed: see ``ProposingSampler``. Of several devices the one counts whose budget is
            used most.
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
        return next_draw(self._space, self._probabilities, self._most_used, seen, rng)

    def _most_used(self, architecture: Architecture) -> float:
        pairs = zip(self._latencies, self._budgets_ms, strict=True)
        return max((latency(architecture) / budget for latency, budget in pairs if budget is not None), default=0.0)
