"""Quality is out of fold, and intervals are judged with their noise."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, RegressorMixin

from predictors.gp import AccuracyGP
from predictors.quality import PredictorQuality, cross_validate, kendall_tau

# A length scale at its bound is an irrelevant feature.
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def brute_force_tau_b(x: NDArray, y: NDArray) -> float:
    points = zip(x, y, strict=True)
    pairs = [(np.sign(a - c), np.sign(b - d)) for (a, b), (c, d) in itertools.combinations(points, 2)]
    untied = math.sqrt(sum(a != 0 for a, _ in pairs) * sum(b != 0 for _, b in pairs))
    return float(sum(a * b for a, b in pairs) / untied)


def test_kendall_tau_against_all_pairs() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        x, y = rng.integers(0, 6, 15), rng.integers(0, 6, 15)
        assert kendall_tau(x, y) == pytest.approx(brute_force_tau_b(x, y))


@pytest.mark.parametrize("scores", [[1.0, 1.0, 1.0], [1.0, 2.0, 3.0]])
def test_kendall_tau_of_a_constant_is_zero(scores: list[float]) -> None:
    assert kendall_tau(scores, [0.5, 0.5, 0.5]) == 0
    assert kendall_tau([0.5, 0.5, 0.5], scores) == 0


class Memory(RegressorMixin, BaseEstimator):
    """Knows what it was fitted to exactly and nothing else; its intervals have the given widths."""

    def __init__(self, std: float = 0.0, noise: float = 0.0) -> None:
        self.std = std
        self.noise = noise

    def fit(self, X: NDArray, y: NDArray) -> "Memory":
        self.known_ = {row.tobytes(): value for row, value in zip(X, y, strict=True)}
        self.noise_std_ = self.noise
        return self

    def predict(self, X: NDArray, return_std: bool = False) -> Any:
        mean = np.array([self.known_.get(row.tobytes(), 0.0) for row in X])
        return (mean, np.full(len(X), self.std)) if return_std else mean


def test_no_observation_predicts_itself() -> None:
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(20, 2)), rng.normal(size=20)
    estimator = Memory()
    quality = cross_validate(estimator, X, y, {})
    assert quality == PredictorQuality(20, 0.0, 0.0, {})
    assert not hasattr(estimator, "known_")


@pytest.mark.parametrize(("std", "noise"), [(1.0, 0.0), (0.0, 1.0), (0.6, 0.8)])
def test_coverage_counts_uncertainty_and_noise(std: float, noise: float) -> None:
    y = np.array([0.0, 1.6, -1.6, 1.7, -1.7, 3.0, -3.0, 1.0, -1.0, 0.5])
    quality = cross_validate(Memory(std, noise), np.arange(10.0)[:, None], y, {})
    assert quality.coverage_90 == pytest.approx(0.6)  # 1.645 standard deviations of 1


def test_baselines_are_scored_on_the_same_architectures() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 3))
    y = 0.6 + 0.1 * X[:, 0]
    baselines = {"same": y, "opposite": -y, "constant": np.zeros(40)}
    quality = cross_validate(AccuracyGP(), X, y, baselines)
    assert quality.baselines == pytest.approx({"same": 1.0, "opposite": -1.0, "constant": 0.0})
    assert quality.kendall > 0.9 and quality.coverage_90 > 0.7 and quality.observations == 40


def test_fewer_observations_than_folds() -> None:
    with pytest.raises(ValueError, match="n_splits=5"):
        cross_validate(Memory(), np.zeros((4, 1)), np.zeros(4), {})
    assert cross_validate(Memory(), np.zeros((4, 1)), np.zeros(4), {}, folds=4).observations == 4
