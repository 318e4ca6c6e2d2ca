"""The same Gaussian process for any Optuna study: parameters instead of architectures."""

import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.search_space import IntersectionSearchSpace
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from nas.search.candidates import CROSSED, Batch
from nas.search.proposal import Proposer
from predictors.quality import GENERAL

Known = Callable[[Mapping[str, Any]], float]
"""Parameters to the value of an objective that needs no evaluation."""
# Candidates per draw and per generation; known objectives are asked for each of them.
DRAWN, CHILDREN = 600, 200
# How far a number moves when it is mutated, as a share of its range.
_STEP = 0.2
# Weight of the sum beside the largest regret (Knowles, ParEGO, 2006).
_AUGMENTED = 0.05


class Parameters:
    """Candidates that are parameters: numbers in [0, 1], categories by their number.

    Args:
        space: the distribution of each parameter.
        known: values of known objectives, lower is better.
    """

    def __init__(self, space: Mapping[str, BaseDistribution], known: Sequence[Known]) -> None:
        self._space, self._known = space, known
        self._sizes = np.array(
            [len(d.choices) if isinstance(d, CategoricalDistribution) else 0 for d in space.values()]
        )

    def of(self, every: Sequence[Mapping[str, Any]]) -> Batch:
        """Return given parameters as candidates."""
        encoded = [[_encode(d, params[name]) for name, d in self._space.items()] for params in every]
        return self._batch(np.array(encoded, float).reshape(-1, len(self._space)))

    def params(self, row: NDArray) -> dict[str, Any]:
        """Return the parameters of a candidate."""
        return {name: _decode(d, value) for (name, d), value in zip(self._space.items(), row.tolist(), strict=True)}

    def draw(self, rng: np.random.Generator) -> Batch:
        """Return random candidates."""
        return self._batch(self._random(DRAWN, rng))

    def vary(self, parents: Batch, rng: np.random.Generator) -> Batch:
        """Return crossovers of parents, of which at least one number is moved or one category drawn anew."""
        mothers, fathers = parents.rows[rng.integers(len(parents), size=(2, CHILDREN))]
        taken = (rng.random(mothers.shape) < 0.5) | (rng.random((CHILDREN, 1)) >= CROSSED)
        rows = np.where(taken, mothers, fathers)
        changed = rng.random(rows.shape) < 1 / len(self._space)
        changed[np.arange(CHILDREN), rng.integers(len(self._space), size=CHILDREN)] = True
        moved = np.clip(rows + rng.normal(0, _STEP, rows.shape), 0, 1)
        return self._batch(np.where(changed, np.where(self._sizes, self._random(CHILDREN, rng), moved), rows))

    def _random(self, count: int, rng: np.random.Generator) -> NDArray:
        numbers = rng.random((count, len(self._space)))
        return np.where(self._sizes, np.floor(numbers * self._sizes), numbers)

    def _batch(self, rows: NDArray) -> Batch:
        every = [self.params(row) for row in rows]
        # Numbers that come to the same value are the same candidate.
        rows = np.array([[_encode(d, p[name]) for name, d in self._space.items()] for p in every], float)
        rows = rows.reshape(-1, len(self._space))
        ms = np.array([[known(params) for known in self._known] for params in every], float)
        columns = [
            rows[:, [i]] if not size else (rows[:, [i]] == np.arange(size)).astype(float)
            for i, size in enumerate(self._sizes)
        ]
        keys = np.ascontiguousarray(rows).view(np.dtype((np.void, rows.itemsize * rows.shape[1])))
        return Batch(rows, keys.reshape(len(rows)), np.hstack(columns), ms.reshape(len(rows), len(self._known)))


def _encode(distribution: BaseDistribution, value: Any) -> float:
    internal = distribution.to_internal_repr(value)
    if isinstance(distribution, CategoricalDistribution):
        return internal
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    low, high = distribution.low, distribution.high
    if distribution.log:
        return float((np.log(internal) - np.log(low)) / (np.log(high) - np.log(low)))
    return float((internal - low) / (high - low))


def _decode(distribution: BaseDistribution, value: float) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return distribution.to_external_repr(int(value))
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    low, high, step = distribution.low, distribution.high, distribution.step
    if distribution.log:
        found = float(np.exp(np.log(low) + value * (np.log(high) - np.log(low))))
    else:
        found = low + value * (high - low)
    if step is not None and not distribution.log:
        found = low + step * round((found - low) / step)
    if isinstance(distribution, IntDistribution):
        found = round(found)
    return distribution.to_external_repr(min(max(found, low), high))


class ParameterGPSampler(BaseSampler):
    """Bayesian optimisation for any Optuna study, in particular where some objectives are known functions.

    With one unknown objective, what promises the largest expected gain in hypervolume is proposed, without a model
    of the known ones. Several unknown objectives are brought to one by weights that are drawn anew for each trial
    (Knowles, ParEGO, IEEE Transactions on Evolutionary Computation 2006). Every proposal follows from the seed, the
    trial's number and the recorded trials.

    Args:
        known: number of an objective -> its value by the parameters; evaluations return the same.
        limits: number of a known objective -> what it must not exceed (fall below, where it is maximised); nothing
            beyond is proposed.
        seed: fixes every draw; random if left out.
    """

    def __init__(
        self,
        known: Mapping[int, Known] | None = None,
        limits: Mapping[int, float] | None = None,
        seed: int | None = None,
    ) -> None:
        self._known, self._limits = known or {}, limits or {}
        self._seed = int(np.random.SeedSequence(seed).generate_state(1)[0])
        self._search_space = IntersectionSearchSpace()

    def reseed_rng(self) -> None:
        """Nothing to do: draws depend on the trial's number, so parallel workers differ."""

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the parameters that all finished trials share and that leave a choice."""
        shared = self._search_space.calculate(study)
        return {name: distribution for name, distribution in shared.items() if not distribution.single()}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the parameters that promise most; random ones as long as there are few trials."""
        if not search_space:
            return {}
        rng = np.random.default_rng([self._seed, trial.number])
        signs = np.array([1.0 if d == StudyDirection.MAXIMIZE else -1.0 for d in study.directions])
        source = Parameters(search_space, [_signed(-signs[i], known) for i, known in self._known.items()])
        limits = [-signs[i] * self._limits[i] if i in self._limits else None for i in self._known]
        done = [t for t in study.get_trials(deepcopy=False, states=[TrialState.COMPLETE]) if _within(t, search_space)]
        running = study.get_trials(deepcopy=False, states=[TrialState.RUNNING])
        pending = [t for t in running if t.number < trial.number and _within(t, search_space)]
        values = signs * np.array([t.values for t in done]).reshape(len(done), len(signs))
        unknown = [i for i in range(len(signs)) if i not in self._known]
        found = Proposer(source, limits, GENERAL).propose(
            source.of([t.params for t in done]), _single(values[:, unknown], rng),
            source.of([t.params for t in pending]), rng,
        )  # fmt: skip
        return source.params((found or source.draw(rng)).rows[0])

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Draw a parameter at random."""
        seed = np.random.SeedSequence([self._seed, trial.number, zlib.crc32(param_name.encode())])
        sampler = RandomSampler(seed=int(seed.generate_state(1)[0]))
        return sampler.sample_independent(study, trial, param_name, param_distribution)


def _within(trial: FrozenTrial, space: Mapping[str, BaseDistribution]) -> bool:
    """Tell whether a trial has all parameters of a space, within its bounds as they are now."""
    return all(
        name in trial.params and distribution._contains(distribution.to_internal_repr(trial.params[name]))
        for name, distribution in space.items()
    )


def _signed(sign: float, known: Known) -> Known:
    return lambda params: sign * known(params)


def _single(values: NDArray, rng: np.random.Generator) -> NDArray:
    """Return one value per row (n, k), higher is better: the augmented Chebyshev scalarisation by random weights."""
    if values.shape[1] == 1 or not len(values):
        return values.reshape(-1)
    regrets = (values.max(0) - values) / np.maximum(np.ptp(values, axis=0), 1e-12)
    weighted = regrets * rng.dirichlet(np.ones(values.shape[1]))
    return -(weighted.max(1) + _AUGMENTED * weighted.sum(1))
