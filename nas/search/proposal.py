"""Bayesian optimisation of one unknown quantity against known ones: which candidate to evaluate next.

The unknown (accuracy) is modelled by a Gaussian process, the known (latencies) are taken as they are; what promises the
largest expected gain in hypervolume is proposed.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone

from nas.search.acquisition import expected_hypervolume_improvement, warped_improvement
from nas.search.candidates import Batch, Source
from nas.search.pareto import front_levels, hypervolume, non_dominated
from predictors.quality import PREDICTORS, choose
from predictors.ranked import RankedRegressor

# Below this many ratings a fit says little more than the features themselves.
FIRST_FIT = 8
GENERATIONS = 4
PARENTS = 40
# Hyper-parameters are learned anew when there are this many times as many observations; which predictor to trust is
# asked more rarely, and not of so few observations that chance would answer.
_GROWTH = 1.1
_CHOSEN_GROWTH, _CHOSEN_FROM = 2.0, 32
# The hypervolume is counted from this quantile of the accuracies on. Networks that have learned nothing are often the
# fastest by far: counted from their level, each of them would seem to gain more than anything on the front.
_FLOOR = 0.1
# Where the hypervolume of an unlimited latency ends, as a multiple of the largest observed one.
_CEILING = 1.05


def _due(count: int, growth: float) -> int:
    """Return the last number of observations up to ``count`` at which something is learned anew."""
    point = FIRST_FIT
    while (later := max(point + 1, int(growth * point))) <= count:
        point = later
    return point


class Proposer:
    """Proposes candidates of a source; what it proposes depends on its arguments alone.

    Args:
        source: where candidates come from.
        limits_ms: what each known latency must not exceed, None for no limit.
        predictors: what the unknown may be predicted with; the first unless another one is clearly better.
    """

    def __init__(
        self,
        source: Source,
        limits_ms: Sequence[float | None],
        predictors: Mapping[str, RankedRegressor] = PREDICTORS,
    ) -> None:
        self.source = source
        self._predictors = predictors
        self._limits = np.array([np.inf if limit is None else limit for limit in limits_ms])
        self._learned: tuple[int, RankedRegressor] | None = None
        self._chosen: tuple[int, str] | None = None

    def propose(
        self,
        observed: Batch,
        accuracies: NDArray,
        pending: Batch,
        rng: np.random.Generator,
        excluded: NDArray | None = None,
    ) -> Batch | None:
        """Return the one candidate to evaluate next, or None where nothing new keeps the limits.

        Args:
            observed: what has been evaluated.
            accuracies: what came out (n,); higher is better.
            pending: what is being evaluated elsewhere, whose outcome is taken to be the prediction.
            rng: decides what is drawn.
            excluded: keys of what else is not to be proposed.
        """
        seen = np.concatenate([observed.keys, pending.keys, *([] if excluded is None else [excluded])])
        pool = self._fresh(self.source.draw(rng), seen)
        if len(observed) < FIRST_FIT:
            kept = pool[self._excess(pool) <= 0]
            return kept[:1] if len(kept) else None
        score = self.scorer(observed, accuracies, pending)
        scores = self._scores(pool, score)
        for _ in range(GENERATIONS):
            best = pool[np.argsort(-scores, kind="stable")[:PARENTS]]
            children = self._fresh(self.source.vary(score.front + best, rng), np.concatenate([seen, pool.keys]))
            pool, scores = pool + children, np.append(scores, self._scores(children, score))
        top = int(np.argmax(scores)) if len(pool) else 0
        return pool[top : top + 1] if len(pool) and scores[top] >= 0 else None

    def scorer(self, observed: Batch, accuracies: NDArray, pending: Batch) -> "Score":
        """Return what tells the expected gains of candidates; see ``propose`` for the arguments."""
        return Score(self._model(observed, accuracies), observed, accuracies, pending, self._limits)

    def _fresh(self, batch: Batch, seen: NDArray) -> Batch:
        """Return each candidate once, without those that were ``seen``, in their order."""
        _, first = np.unique(batch.keys, return_index=True)
        distinct = batch[np.sort(first)]
        return distinct[~np.isin(distinct.keys, seen)]

    def _excess(self, batch: Batch) -> NDArray:
        """Return by how much, in parts of the limit, candidates exceed the limits (n,); zero or less is within them."""
        parts = np.where(np.isfinite(self._limits) & (self._limits != 0), np.abs(self._limits), 1.0)
        return np.max((batch.ms - self._limits) / parts, axis=1, initial=-1.0)

    def _scores(self, batch: Batch, score: "Score") -> NDArray:
        """Return the expected gains; candidates over a limit are negative, the more the further they are over it."""
        excess = self._excess(batch)
        scores = -excess
        within = excess <= 0
        scores[within] = score(batch[within])
        return scores

    def _model(self, observed: Batch, accuracies: NDArray) -> RankedRegressor:
        """Return the fitted predictor; hyper-parameters, and which predictor it is, are those of the last fit due."""
        count = _due(len(observed), _GROWTH)
        X, y = observed.X[:count], accuracies[:count]
        fingerprint = hash((X.shape, X.tobytes(), y.tobytes()))
        if self._learned is None or self._learned[0] != fingerprint:
            predictor = clone(self._predictors[self._kind(X, y)])
            self._learned = fingerprint, predictor.set_params(calibrated=False).fit(X, y)
        return self._learned[1].observing(observed.X, accuracies)

    def _kind(self, X: NDArray, y: NDArray) -> str:
        count = _due(len(y), _CHOSEN_GROWTH)
        if count < _CHOSEN_FROM:
            return next(iter(self._predictors))
        fingerprint = hash((X.shape[1], X[:count].tobytes(), y[:count].tobytes()))
        if self._chosen is None or self._chosen[0] != fingerprint:
            self._chosen = fingerprint, choose(X[:count], y[:count], self._predictors)
        return self._chosen[1]


class Score:
    """The expected gain of candidates, relative to the hypervolume that there is, summed over the devices.

    ``front`` is what is on the front of some device, pending candidates among it.
    """

    def __init__(
        self, model: RankedRegressor, observed: Batch, accuracies: NDArray, pending: Batch, limits: NDArray
    ) -> None:
        if len(pending):
            accuracies = np.append(accuracies, model.predict(pending.X))
            model, observed = model.believing(pending.X), observed + pending
        self._model = model
        self._floor = float(np.quantile(accuracies, _FLOOR, method="lower"))
        on_a_front = np.zeros(len(observed), bool)
        self._devices = []
        within = np.all(observed.ms <= limits, axis=1)  # the others tell the model about accuracy
        within |= not within.any()  # or are all that there is to breed from
        for column, limit in zip(observed.ms.T, limits, strict=True):
            points = list(zip(accuracies[within].tolist(), column[within].tolist(), strict=True))
            on_a_front[within] |= np.array(non_dominated(points), bool)
            ceiling = float(limit) if np.isfinite(limit) else _CEILING * float(column.max())
            volume = hypervolume(points, self._floor, ceiling)
            self._devices.append((*front_levels(points, self._floor), ceiling, volume or 1.0))
        if not self._devices:  # accuracy is all that counts
            on_a_front[np.argmax(accuracies)] = True
        self.front = observed[on_a_front]
        self._best = np.array([accuracies.max()])

    def __call__(self, batch: Batch) -> NDArray:
        """Return the expected gain of each candidate (n,)."""
        mean, std = self._model.latent(batch.X) if len(batch) else (np.empty(0), np.empty(0))
        if not self._devices:
            return warped_improvement(mean, std, self._model.warp_, self._best)[:, 0]
        gains = [
            expected_hypervolume_improvement(
                warped_improvement(mean, std, self._model.warp_, levels), batch.ms[:, i], steps_ms, ceiling
            ) / volume
            for i, (steps_ms, levels, ceiling, volume) in enumerate(self._devices)
        ]  # fmt: skip
        return np.sum(gains, axis=0)
