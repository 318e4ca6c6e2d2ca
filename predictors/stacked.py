"""Several scores of a network made one: stacked regression (Breiman, Stacked Regressions, 1996).

Weights are not negative, as there: every score rises with the accuracy or says nothing, and scores that are nearly the
same would else be weighed against each other by chance.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from predictors.warp import RankWarp

# From next to none to so much that the weights only say how well each score correlates by itself.
_PENALTIES = np.logspace(-1, 3, 9)
# No score counts further beyond those that were observed, in standard deviations: lines drawn out are guesses.
_BEYOND = 1.0


@dataclass(frozen=True)
class StackedRating:
    """A weighted sum of scores that predicts the accuracy of a network after training.

    Scores and accuracies count as the normal quantiles of their ranks (``RankWarp``) among the networks that were
    observed, so it does not matter whether a score is a count or its logarithm.

    ``observed`` are the scores of those networks by name, ``trained`` their accuracies in [0, 1], ``weights`` what a
    standard deviation of each score is worth, in standard deviations of the accuracy.
    """

    observed: dict[str, list[float]]
    trained: list[float]
    weights: dict[str, float]

    @classmethod
    def fit(cls, scores: Mapping[str, Sequence[float]], trained: Sequence[float]) -> "StackedRating":
        """Learn the weights by ridge regression, its penalty by leave-one-out cross-validation."""
        observed = {name: _finite(values) for name, values in scores.items()}
        found = cls(observed, list(map(float, trained)), dict.fromkeys(observed, 0.0))
        quantiles, wanted = found._quantiles(observed), RankWarp(np.array(found.trained)).z
        penalty = min(_PENALTIES, key=lambda each: _error(quantiles, wanted, each))
        weights = map(float, _ridge(quantiles, wanted, penalty))
        return cls(observed, found.trained, dict(zip(observed, weights, strict=True)))

    def predict(self, scores: Mapping[str, Sequence[float]]) -> NDArray:
        """Return the predicted accuracy (n,), in [0, 1], of networks by all of their scores (n,)."""
        return np.clip(RankWarp(np.array(self.trained)).back(self.standing(scores)), 0.0, 1.0)

    def standing(self, scores: Mapping[str, Sequence[float]]) -> NDArray:
        """Return where networks (n,) stand among those that were observed, as normal quantiles."""
        return np.asarray(self._quantiles(scores) @ np.array(list(self.weights.values())))

    def _quantiles(self, scores: Mapping[str, Sequence[float]]) -> NDArray:
        columns = []
        for name, values in self.observed.items():
            warp = RankWarp(np.array(values))
            there = warp.there(np.asarray(scores[name], float))
            columns.append(np.clip(there, warp.knots[0] - _BEYOND, warp.knots[-1] + _BEYOND))
        return np.stack(columns, axis=1)


def _ridge(Z: NDArray, z: NDArray, penalty: float) -> NDArray:
    """Return the weights (d,), none negative, of ridge regression on columns (n, d) of mean 0."""
    d = Z.shape[1]
    found, _ = nnls(np.vstack([Z, math.sqrt(penalty) * np.eye(d)]), np.append(z, np.zeros(d)))
    return np.asarray(found)


def _error(Z: NDArray, z: NDArray, penalty: float) -> float:
    """Return the squared error of predicting each row from all the others."""
    kept = ~np.eye(len(z), dtype=bool)
    return sum(float(z[i] - Z[i] @ _ridge(Z[rest], z[rest], penalty)) ** 2 for i, rest in enumerate(kept))


def _finite(values: Sequence[float]) -> list[float]:
    """Return scores of which the lowest stands for minus infinity, as networks without any signal get."""
    finite = [float(value) for value in values if np.isfinite(value)]
    return [max(float(value), min(finite, default=0.0)) for value in values]


def leave_one_out(scores: Mapping[str, Sequence[float]], trained: Sequence[float]) -> NDArray:
    """Return for each network (n,) where ``StackedRating`` places it among all the others, which it is fitted to.

    Predicted accuracies would be biased against it: without a good network those of the others have a lower median.
    """
    placed = []
    for i in range(len(trained)):
        rest = {name: [*values[:i], *values[i + 1 :]] for name, values in scores.items()}
        fitted = StackedRating.fit(rest, [*trained[:i], *trained[i + 1 :]])
        placed.append(fitted.standing({name: [values[i]] for name, values in scores.items()})[0])
    return np.array(placed)
