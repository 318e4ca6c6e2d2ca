"""The Gaussian-process accuracy predictor."""

from typing import Self

import numpy as np
from numpy.typing import NDArray
from sklearn.preprocessing import StandardScaler

from predictors.process import GaussianProcess, learn
from predictors.ranked import RankedRegressor
from predictors.warp import RankWarp


class AccuracyGP(RankedRegressor):
    """Gaussian process over standardised features and accuracies that are made Gaussian by their ranks.

    Args:
        calibrated: see ``RankedRegressor``.
        together: the last so many features share one length scale, as the counts of a graph kernel do.
    """

    def __init__(self, calibrated: bool = True, together: int = 0) -> None:
        super().__init__(calibrated)
        self.together = together

    def _scaler(self, X: NDArray) -> StandardScaler:
        scaler = super()._scaler(X)
        if self.together:  # what shares a length scale keeps its proportions
            scaler.scale_[-self.together :] = np.sqrt(scaler.var_[-self.together :].mean()) or 1.0
        return scaler

    def _learn(self, X: NDArray, z: NDArray) -> None:
        apart = X.shape[1] - self.together
        groups = np.minimum(np.arange(X.shape[1]), apart)
        self.gp_ = GaussianProcess(X, z, learn(X, z, groups))
        self.noise_ = self.gp_.hyper.noise

    def _latent(self, X: NDArray) -> tuple[NDArray, NDArray]:
        return self.gp_.predict(X)

    def observing(self, X: NDArray, y: NDArray) -> Self:
        """Return the predictor given other observations, with the scaling and hyper-parameters of this one."""
        warp = RankWarp(y)
        return self._with(warp_=warp, gp_=GaussianProcess(self.scaler_.transform(X), warp.z, self.gp_.hyper))

    def believing(self, X: NDArray) -> Self:
        """Return the predictor after its medians at ``X`` have been observed (the Kriging believer)."""
        return self._with(gp_=self.gp_.believing(self.scaler_.transform(X)))
