"""The Gaussian-process accuracy predictor."""

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import check_is_fitted, validate_data


def _optimise(objective: Any, start: NDArray, bounds: NDArray) -> tuple[NDArray, float]:
    # A few dozen steps find the length scales that matter; the rest of the optimum is flat.
    found = minimize(objective, start, jac=True, bounds=bounds, method="L-BFGS-B", options={"maxiter": 30})
    return found.x, found.fun


class AccuracyGP(RegressorMixin, BaseEstimator):
    """Gaussian process with one length scale per feature (RBF, automatic relevance determination).

    Features are standardised; length scales have a floor, without which few observations of many features
    give intervals that are far too narrow. ``noise_std_`` is the fitted noise of one observed accuracy.

    Args:
        length_scale_floor: smallest length scale, in standard deviations of a feature.
    """

    def __init__(self, length_scale_floor: float = 1.5) -> None:
        self.length_scale_floor = length_scale_floor

    def fit(self, X: NDArray, y: NDArray) -> "AccuracyGP":
        """Fit to features ``X`` (n, d) and accuracies ``y`` (n,)."""
        X, y = validate_data(self, X, y, y_numeric=True, dtype=float)
        self.scaler_ = StandardScaler().fit(X)
        scales = RBF(np.full(X.shape[1], 2 * self.length_scale_floor), (self.length_scale_floor, 1e3))
        kernel = ConstantKernel(1.0, (1e-2, 1e2)) * scales + WhiteKernel(0.1, (1e-4, 1.0))
        self.gp_ = GaussianProcessRegressor(kernel, alpha=1e-8, normalize_y=True, optimizer=_optimise)
        with warnings.catch_warnings():
            # A length scale at its upper bound says that the feature does not matter, which is no fault.
            warnings.simplefilter("ignore", ConvergenceWarning)
            self.gp_.fit(self.scaler_.transform(X), y)
        scale = np.std(y) or 1.0
        self.noise_std_ = float(np.sqrt(self.gp_.kernel_.k2.noise_level) * scale)
        return self

    def predict(self, X: NDArray, return_std: bool = False) -> Any:
        """Return the expected accuracy (n,) and, if asked, the standard deviation (n,) of the true accuracy."""
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=float)
        mean, std = self.gp_.predict(self.scaler_.transform(X), return_std=True)
        if not return_std:
            return mean
        return mean, np.sqrt(np.maximum(std**2 - self.noise_std_**2, 1e-12))
