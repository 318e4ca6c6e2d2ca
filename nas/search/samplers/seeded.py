"""Optuna's own samplers, made restartable: every draw depends on the seed and the trial alone."""

import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState


class SeededSampler(BaseSampler):
    """Make the wrapped sampler anew for each trial and parameter, with a seed of their own.

    Optuna's samplers advance one random stream for the life of the process, so a study that is resumed
    draws other trials than one that ran through. Here trial 17 is the same trial either way, even when the
    process was killed half-way through its parameters.

    Args:
        make: returns the wrapped sampler for a seed.
        seed: the seed of the search.
    """

    def __init__(self, make: Callable[[int], BaseSampler], seed: int) -> None:
        self._make = make
        self._seed = seed

    def _inner(self, *parts: int) -> BaseSampler:
        return self._make(int(np.random.SeedSequence([self._seed, *parts]).generate_state(1)[0]))

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Ask the wrapped sampler."""
        return self._inner(trial.number).infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Ask the wrapped sampler, seeded by the trial's number."""
        return self._inner(trial.number).sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Ask the wrapped sampler, seeded by the trial's number and the parameter's name."""
        inner = self._inner(trial.number, zlib.crc32(param_name.encode()))
        return inner.sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Ask the wrapped sampler."""
        self._inner(trial.number).before_trial(study, trial)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """Ask the wrapped sampler."""
        self._inner(trial.number).after_trial(study, trial, state, values)
