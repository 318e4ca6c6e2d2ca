"""How good a predictor is, beside estimates that cost nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from sklearn.base import RegressorMixin, clone
from sklearn.model_selection import KFold


def kendall_tau(scores: Sequence[float] | NDArray, truth: Sequence[float] | NDArray) -> float:
    """Return Kendall's tau-b, or 0 where one side is constant."""
    tau = stats.kendalltau(scores, truth).statistic
    return 0.0 if np.isnan(tau) else float(tau)


@dataclass(frozen=True)
class PredictorQuality:
    """Out-of-fold quality of a predictor on ``observations`` evaluated architectures.

    ``coverage_90`` is the share of accuracies inside the nominal 90 % interval, ``baselines`` the Kendall tau
    of scores that need no fitting, on the same architectures.
    """

    observations: int
    kendall: float
    coverage_90: float
    baselines: dict[str, float]

    def lines(self) -> dict[str, str]:
        """Return the quality as label and text."""
        return {
            "observations": str(self.observations),
            "Kendall tau": f"{self.kendall:+.2f}",
            "coverage of the 90 % interval": f"{100 * self.coverage_90:.0f} %",
            **{f"Kendall tau of {name} alone": f"{tau:+.2f}" for name, tau in self.baselines.items()},
        }

    def text(self) -> str:
        """Return the quality in one line."""
        others = ", ".join(f"{name} {tau:+.2f}" for name, tau in self.baselines.items())
        return (
            f"cross-validated Kendall tau {self.kendall:+.2f} on {self.observations} candidates (alone: {others}), "
            f"90 % interval covers {100 * self.coverage_90:.0f} %"
        )


def cross_validate(
    estimator: RegressorMixin,
    X: NDArray,
    y: NDArray,
    baselines: Mapping[str, Sequence[float] | NDArray],
    folds: int = 5,
) -> PredictorQuality:
    """Predict each fold from the others; ``estimator.predict`` must take ``return_std``.

    Raises:
        ValueError: there are fewer observations than folds.
    """
    mean, std = np.empty(len(y)), np.empty(len(y))
    noise = np.empty(len(y))
    for train, test in KFold(folds, shuffle=True, random_state=0).split(X):
        fitted = clone(estimator).fit(X[train], y[train])
        mean[test], std[test] = fitted.predict(X[test], return_std=True)
        noise[test] = fitted.noise_std_
    inside = np.abs(y - mean) <= stats.norm.ppf(0.95) * np.hypot(std, noise)
    taus = {name: kendall_tau(scores, y) for name, scores in baselines.items()}
    return PredictorQuality(len(y), kendall_tau(mean, y), float(inside.mean()), taus)
