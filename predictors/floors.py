"""The floor: simple predictors that a search falls back to when the Gaussian process does not beat them."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import BayesianRidge

from predictors.ranked import RankedRegressor

_TREES = 100


class AccuracyFloor(RankedRegressor):
    """A linear model or an ensemble of trees behind the interface of the Gaussian process.

    Args:
        calibrated: see ``RankedRegressor``.
        kind: ``ridge`` (Bayesian ridge regression) or ``forest`` (random forest; deviations are those of its trees).
        only: the one column of the features that is looked at; None for all.
    """

    def __init__(
        self, calibrated: bool = True, kind: Literal["ridge", "forest"] = "ridge", only: int | None = None
    ) -> None:
        super().__init__(calibrated)
        self.kind = kind
        self.only = only

    def _seen(self, X: NDArray) -> NDArray:
        return X if self.only is None else X[:, [self.only]]

    def _learn(self, X: NDArray, z: NDArray) -> None:
        X = self._seen(X)
        if self.kind == "ridge":
            self.model_ = BayesianRidge().fit(X, z)
            self.noise_ = float(1 / self.model_.alpha_)
        else:
            self.model_ = RandomForestRegressor(_TREES, min_samples_leaf=2, random_state=0).fit(X, z)
            self.noise_ = float(np.var(z - self.model_.predict(X)))

    def _latent(self, X: NDArray) -> tuple[NDArray, NDArray]:
        X = self._seen(X)
        if self.kind == "ridge":
            mean, std = self.model_.predict(X, return_std=True)
            return mean, np.sqrt(np.maximum(std**2 - self.noise_, 1e-10))
        trees = np.stack([tree.predict(X) for tree in self.model_.estimators_])
        return trees.mean(0), np.maximum(trees.std(0), 1e-5)
