"""What every accuracy predictor shares: targets made Gaussian by their ranks, medians, and intervals that hold."""

from abc import ABC, abstractmethod
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm
from sklearn.base import BaseEstimator, RegressorMixin, clone
from sklearn.model_selection import KFold
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import check_is_fitted, validate_data

from predictors.warp import RankWarp

FOLDS = 5
# Fewer observations than this say nothing about how far off predictions are.
_FEWEST = 10
# As far from the middle as ranks are looked for, in standard deviations.
_FAR = 6.0


class RankedRegressor(RegressorMixin, BaseEstimator, ABC):
    """A regressor of accuracies over standardised features; subclasses model the space of ranks.

    Predictions are medians; deviations are symmetric in the space of ranks, where ``latent`` gives them, and not
    in accuracy. ``warp_`` is the way back, ``noise_`` the variance of one observation there. ``width_`` is how many
    deviations hold 90 % of all observations.

    Args:
        calibrated: whether ``width_`` is what five-fold cross-validation finds, rather than that of a normal
            distribution: a model that fits few observations closely trusts itself too much.
    """

    def __init__(self, calibrated: bool = True) -> None:
        self.calibrated = calibrated

    @abstractmethod
    def _learn(self, X: NDArray, z: NDArray) -> None:
        """Fit to standardised features (n, d) and ranks (n,); set ``noise_``."""

    @abstractmethod
    def _latent(self, X: NDArray) -> tuple[NDArray, NDArray]:
        """Return mean and standard deviation, without noise, at standardised features."""

    def fit(self, X: NDArray, y: NDArray) -> Self:
        """Fit to features ``X`` (n, d) and accuracies ``y`` (n,)."""
        X, y = validate_data(self, X, y, y_numeric=True, dtype=float)
        self.scaler_ = self._scaler(X)
        self.warp_ = RankWarp(y)
        self._learn(self.scaler_.transform(X), self.warp_.z)
        self.width_ = self._width(X, y) if self.calibrated and len(y) >= _FEWEST else float(norm.ppf(0.95))
        return self

    def _scaler(self, X: NDArray) -> StandardScaler:
        return StandardScaler().fit(X)

    def _width(self, X: NDArray, y: NDArray) -> float:
        off = np.empty(len(y))
        for train, test in KFold(FOLDS, shuffle=True, random_state=0).split(X):
            fitted = clone(self).set_params(calibrated=False).fit(X[train], y[train])
            mean, std = fitted.latent(X[test])
            grid = np.linspace(-_FAR, _FAR, 1201)
            z = np.interp(y[test], fitted.warp_.back(grid), grid)
            off[test] = np.abs(z - mean) / np.sqrt(std**2 + fitted.noise_)
        # The quantile of a finite sample (Papadopoulos et al., Inductive Confidence Machines for Regression, 2002).
        return float(np.quantile(off, min(1.0, 0.9 * (1 + 1 / len(y))), method="higher"))

    def latent(self, X: NDArray) -> tuple[NDArray, NDArray]:
        """Return mean and standard deviation (n,) in the space of ranks, of the accuracy without its noise."""
        check_is_fitted(self)
        return self._latent(self.scaler_.transform(validate_data(self, X, reset=False, dtype=float)))

    def predict(self, X: NDArray, return_std: bool = False) -> Any:
        """Return the median accuracy (n,) and, if asked, half of the way from one deviation below to one above."""
        mean, std = self.latent(X)
        if not return_std:
            return self.warp_.back(mean)
        return self.warp_.back(mean), (self.warp_.back(mean + std) - self.warp_.back(mean - std)) / 2

    def interval(self, X: NDArray) -> tuple[NDArray, NDArray]:
        """Return the lower and upper ends (n,) of the interval that holds an observed accuracy in 90 % of all cases."""
        mean, std = self.latent(X)
        reach = self.width_ * np.sqrt(std**2 + self.noise_)
        return self.warp_.back(mean - reach), self.warp_.back(mean + reach)

    def observing(self, X: NDArray, y: NDArray) -> Self:
        """Return the predictor given other observations; it may keep what is dear to learn of those that it has."""
        return clone(self).fit(X, y)

    def believing(self, X: NDArray) -> Self:
        """Return the predictor after its medians at ``X`` have been observed: they are being evaluated elsewhere."""
        return self

    def _with(self, **changed: Any) -> Self:
        other = clone(self)
        other.__dict__ |= self.__dict__ | changed
        return other
