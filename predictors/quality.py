"""How good a predictor is, beside estimates that cost nothing, and which one a search may trust."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from sklearn.base import RegressorMixin, clone
from sklearn.model_selection import KFold

from predictors.features import LOG_MACS, LOG_PARAMS
from predictors.floors import AccuracyFloor
from predictors.gp import AccuracyGP
from predictors.ranked import FOLDS, RankedRegressor

GENERAL: dict[str, RankedRegressor] = {
    "gp": AccuracyGP(),
    "ridge": AccuracyFloor(),
    "forest": AccuracyFloor(kind="forest"),
}
"""What any features may be predicted from: the Gaussian process first, then its floors."""
PREDICTORS: dict[str, RankedRegressor] = {
    **GENERAL,
    "MACs": AccuracyFloor(only=LOG_MACS),
    "parameters": AccuracyFloor(only=LOG_PARAMS),
}
"""What a search for architectures may predict accuracy with: also by one of the counts alone."""


def kendall_tau(scores: Sequence[float] | NDArray, truth: Sequence[float] | NDArray) -> float:
    """Return Kendall's tau-b, or 0 where one side is constant."""
    tau = stats.kendalltau(scores, truth).statistic
    return 0.0 if np.isnan(tau) else float(tau)


def chance_tau(count: int) -> float:
    """Return the standard deviation of Kendall's tau between ``count`` unrelated pairs (Kendall, 1938)."""
    return math.sqrt(2 * (2 * count + 5) / (9 * count * (count - 1)))


def cross_predict(estimator: RegressorMixin, X: NDArray, y: NDArray) -> tuple[NDArray, NDArray, NDArray]:
    """Return what each of five folds is predicted by the others: medians and the ends of the 90 % intervals (n,).

    Raises:
        ValueError: there are fewer observations than folds.
    """
    median, low, high = np.empty((3, len(y)))
    for train, test in KFold(FOLDS, shuffle=True, random_state=0).split(X):
        fitted = clone(estimator).fit(X[train], y[train])
        median[test] = fitted.predict(X[test])
        low[test], high[test] = fitted.interval(X[test])
    return median, low, high


def trusted(taus: Mapping[str, float], count: int) -> str:
    """Return the name of the predictor to use: the first, unless another one's tau is clearly higher.

    Clearly is by more than the deviation that chance gives tau on ``count`` observations.
    """
    first, *_ = taus
    best = max(taus, key=lambda name: taus[name])
    return best if taus[best] > taus[first] + chance_tau(count) else first


def choose(X: NDArray, y: NDArray, predictors: Mapping[str, RankedRegressor] = PREDICTORS) -> str:
    """Return which predictor to use, by cross-validation on features ``X`` (n, d) and accuracies ``y`` (n,)."""
    quick = {name: clone(predictor).set_params(calibrated=False) for name, predictor in predictors.items()}
    return trusted({name: kendall_tau(cross_predict(p, X, y)[0], y) for name, p in quick.items()}, len(y))


@dataclass(frozen=True)
class PredictorQuality:
    """Out-of-fold quality of the predictors on ``observations`` evaluated architectures.

    ``kendall`` is the tau of each of ``PREDICTORS``, ``alone`` that of scores without any fit on the same
    architectures; ``coverage_90`` is the share of accuracies inside the Gaussian process' 90 % interval and ``used``
    the predictor that the next proposals would use.
    """

    observations: int
    kendall: dict[str, float]
    alone: dict[str, float]
    coverage_90: float
    used: str

    @classmethod
    def of(cls, X: NDArray, y: NDArray, alone: Mapping[str, Sequence[float] | NDArray]) -> "PredictorQuality":
        """Cross-validate every predictor on features ``X`` (n, d) and accuracies ``y`` (n,)."""
        kendall = {}
        for name, predictor in PREDICTORS.items():
            calibrated = name == "gp"  # the only one whose interval is reported
            median, low, high = cross_predict(clone(predictor).set_params(calibrated=calibrated), X, y)
            kendall[name] = kendall_tau(median, y)
            if calibrated:
                coverage = float(np.mean((low <= y) & (y <= high)))
        scores = {name: kendall_tau(values, y) for name, values in alone.items()}
        return cls(len(y), kendall, scores, coverage, trusted(kendall, len(y)))

    def lines(self) -> dict[str, str]:
        """Return the quality as label and text."""
        return {
            "observations": str(self.observations),
            **{f"Kendall tau of {name}, fitted": f"{tau:+.2f}" for name, tau in self.kendall.items()},
            **{f"Kendall tau of {name} alone": f"{tau:+.2f}" for name, tau in self.alone.items()},
            "coverage of the 90 % interval": f"{100 * self.coverage_90:.0f} %",
            "used": self._verdict(),
        }

    def text(self) -> str:
        """Return the quality in one line."""
        fitted = ", ".join(f"{name} {tau:+.2f}" for name, tau in self.kendall.items())
        alone = ", ".join(f"{name} {tau:+.2f}" for name, tau in self.alone.items())
        return (
            f"cross-validated Kendall tau on {self.observations} candidates: {fitted} (without a fit: {alone}); "
            f"the gp's 90 % interval covers {100 * self.coverage_90:.0f} %; used: {self._verdict()}"
        )

    def _verdict(self) -> str:
        best = max(self.kendall, key=lambda name: self.kendall[name])
        if self.used == "gp":
            return "gp" if best == "gp" else f"gp, for chance may explain that {best} is ahead"
        return f"{self.used}, for the gp is not as good"
