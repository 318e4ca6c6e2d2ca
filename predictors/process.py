"""A Gaussian process with one length scale per feature, fast enough to be fitted between two trials.

Rasmussen and Williams, Gaussian Processes for Machine Learning (2006): prediction by algorithm 2.1, Matern 5/2 kernel
(equation 4.17), gradients of the marginal likelihood by equation 5.9. Priors on the hyper-parameters (section 5.2)
keep few observations of many features from being explained too well; that of the length scales grows with the number
of features (Hvarfner et al., Vanilla Bayesian Optimization Performs Great in High Dimensions, ICML 2024).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cho_factor, cho_solve, solve_triangular
from scipy.optimize import minimize

# Means and standard deviations of the priors, in logarithms; the targets have a standard deviation of about 1.
_SCALE, _SCALE_STD = 0.7, 1.0
# An indicator (one-hot) tells a detail: it is expected to matter less than a number that sums up the architecture.
_INDICATOR = 1.5
_SIGNAL, _SIGNAL_STD = 0.0, 1.0
_NOISE, _NOISE_STD = float(np.log(0.1)), 1.0
_JITTER = 1e-8
# A few dozen steps find the length scales that matter; the rest of the optimum is flat.
_STEPS = 40
# More observations than this tell the hyper-parameters no better; they are spread evenly over the targets.
_LEARNED_FROM = 300
# Rows that are predicted at once, so that a hundred thousand do not need gigabytes.
_CHUNK = 512
# No candidate is known better than to this share of the variance.
_LEAST_SHARE = 1e-5


@dataclass(frozen=True)
class Hyperparameters:
    """Length scales (d,), and the variances of the function and of the noise."""

    scales: NDArray
    signal: float
    noise: float


def _root_distances(A: NDArray, B: NDArray) -> NDArray:
    """Return the square root of 5 times the distance between each row of ``A`` and each of ``B``."""
    squared = (A * A).sum(1)[:, None] + (B * B).sum(1)[None] - 2 * A @ B.T
    return np.sqrt(5 * np.maximum(squared, 0))


def _matern(root: NDArray) -> NDArray:
    """Return the correlation at ``_root_distances``."""
    return (1 + root + root * root / 3) * np.exp(-root)


def learn(X: NDArray, z: NDArray, groups: NDArray) -> Hyperparameters:
    """Return the most probable hyper-parameters.

    Args:
        X: standardised features (n, d).
        z: targets (n,) with a mean of 0 and a standard deviation of about 1.
        groups: number of the length scale of each feature (d,), from 0 on without gaps.
    """
    if len(z) > _LEARNED_FROM:
        chosen = np.sort(np.argsort(z, kind="stable")[np.linspace(0, len(z) - 1, _LEARNED_FROM).round().astype(int)])
        X, z = X[chosen], z[chosen]
    n, d, scales = *X.shape, int(groups.max()) + 1
    indicators = np.array([len(np.unique(column)) <= 2 for column in X.T])
    expected = 0.5 * np.log(d) + _SCALE + _INDICATOR * indicators
    expected = np.bincount(groups, expected) / np.bincount(groups)
    mean = np.concatenate([expected, [_SIGNAL, _NOISE]])
    std = np.concatenate([np.full(scales, _SCALE_STD), [_SIGNAL_STD, _NOISE_STD]])

    def negative_log_posterior(theta: NDArray) -> tuple[float, NDArray]:
        inverse, (signal, noise) = np.exp(-theta[groups]), np.exp(theta[scales:])
        scaled = X * inverse
        root = _root_distances(scaled, scaled)
        correlation = _matern(root)
        try:
            factor = cho_factor(signal * correlation + (noise + _JITTER) * np.eye(n), lower=True)
        except LinAlgError:
            return 1e10, np.zeros(scales + 2)
        alpha = cho_solve(factor, z)
        pull = 0.5 * (cho_solve(factor, np.eye(n)) - np.outer(alpha, alpha))
        # Sum over pairs of m * (x - x')^2, without the n x n x d differences.
        m = pull * signal * (1 + root) * np.exp(-root) * (-5 / 6)
        by_feature = -4 * (m.sum(1) @ (scaled * scaled) - (scaled * (m @ scaled)).sum(0))
        by_scale = np.bincount(groups, by_feature)
        gradient = np.concatenate([by_scale, [signal * (pull * correlation).sum(), noise * np.trace(pull)]])
        off = (theta - mean) / std
        value = 0.5 * z @ alpha + np.log(np.diag(factor[0])).sum() + 0.5 * off @ off
        return float(value), gradient + off / std

    found = minimize(
        negative_log_posterior, mean, jac=True, method="L-BFGS-B",
        bounds=list(zip(mean - 6 * std, mean + 6 * std, strict=True)), options={"maxiter": _STEPS},
    ).x  # fmt: skip
    return Hyperparameters(np.exp(found[groups]), *map(float, np.exp(found[scales:])))


class GaussianProcess:
    """The posterior given features ``X`` (n, d) and targets ``z`` (n,) of mean about 0."""

    def __init__(self, X: NDArray, z: NDArray, hyper: Hyperparameters) -> None:
        self.X, self.z, self.hyper = X, z, hyper
        self._scaled = X / hyper.scales
        correlation = _matern(_root_distances(self._scaled, self._scaled))
        covariance = hyper.signal * correlation + (hyper.noise + _JITTER) * np.eye(len(z))
        factor = cho_factor(covariance, lower=True)
        self._alpha = cho_solve(factor, z)
        # Variances in single precision: the errors are far below the noise, and thousands of candidates wait.
        self._whitening = np.tril(factor[0]).astype(np.float32)

    def predict(self, X: NDArray) -> tuple[NDArray, NDArray]:
        """Return mean and standard deviation (m,) of the function, noise left out, at ``X`` (m, d)."""
        parts = [self._predict(X[i : i + _CHUNK]) for i in range(0, len(X), _CHUNK)]
        mean, std = zip(*parts, strict=True) if parts else ([np.empty(0)], [np.empty(0)])
        return np.concatenate(mean), np.concatenate(std)

    def _predict(self, X: NDArray) -> tuple[NDArray, NDArray]:
        across = _matern(_root_distances(X / self.hyper.scales, self._scaled))
        explained = solve_triangular(self._whitening, across.astype(np.float32).T, lower=True, check_finite=False)
        share = np.einsum("ij,ij->j", explained, explained, dtype=float) * self.hyper.signal
        variance = self.hyper.signal * np.maximum(1 - share, _LEAST_SHARE)
        return self.hyper.signal * (across @ self._alpha), np.sqrt(variance)

    def believing(self, X: NDArray) -> "GaussianProcess":
        """Return the posterior after the means at ``X`` have been observed (Ginsbourger et al., 2010: the believer)."""
        mean, _ = self.predict(X)
        return GaussianProcess(np.vstack([self.X, X]), np.append(self.z, mean), self.hyper)
