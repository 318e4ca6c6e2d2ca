"""Samplers that propose whole architectures."""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from search_spaces.architecture import Architecture
from search_spaces.space import SearchSpace


class ProposingSampler(BaseSampler):
    """Propose an architecture per trial, as a function of the seed, the trial's number and the recorded trials.

    A resumed study therefore proposes what it would have proposed.

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

    @abstractmethod
    def propose(self, study: Study, number: int) -> Architecture:
        """Return the architecture of trial ``number``."""

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

    def _fresh(self, drawn: Iterable[Architecture], known: set[str]) -> list[Architecture]:
        distinct = {a.id: a for a in drawn if a.id not in known}
        return [a for a in distinct.values() if self.feasible(a)]
