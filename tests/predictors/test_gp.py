"""The Gaussian process is a scikit-learn estimator, learns smooth functions, and knows how far it may be off."""

import pickle
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats
from sklearn.base import BaseEstimator, clone
from sklearn.utils.estimator_checks import parametrize_with_checks

from predictors.gp import AccuracyGP

# A length scale at its bound is an irrelevant feature.
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@parametrize_with_checks([AccuracyGP()])
def test_is_a_scikit_learn_estimator(estimator: BaseEstimator, check: Callable[[BaseEstimator], None]) -> None:
    check(estimator)


def smooth(X: NDArray) -> NDArray:
    return 0.7 + 0.1 * np.sin(X[:, 0]) + 0.05 * X[:, 1]


@pytest.fixture(scope="module")
def data() -> tuple[NDArray, NDArray, NDArray, NDArray]:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(140, 4))
    y = smooth(X) + rng.normal(scale=0.01, size=140)
    return X[:60], y[:60], X[60:], y[60:]


def test_predicts_better_than_the_mean(data: tuple[NDArray, ...]) -> None:
    X, y, unseen, _ = data
    error = np.abs(AccuracyGP().fit(X, y).predict(unseen) - smooth(unseen)).mean()
    assert error < 0.2 * np.abs(y.mean() - smooth(unseen)).mean()


def test_interval_covers_true_and_observed_values(data: tuple[NDArray, ...]) -> None:
    X, y, unseen, observed = data
    model = AccuracyGP().fit(X, y)
    mean, std = model.predict(unseen, return_std=True)
    assert (std > 0).all() and np.array_equal(mean, model.predict(unseen))
    wide = stats.norm.ppf(0.95) * np.hypot(std, model.noise_std_)
    assert 0.75 < np.mean(np.abs(observed - mean) <= wide) <= 1
    assert model.noise_std_ == pytest.approx(0.01, rel=0.6)


def test_uncertainty_grows_away_from_the_data(data: tuple[NDArray, ...]) -> None:
    X, y, _, _ = data
    model = AccuracyGP().fit(X, y)
    _, near = model.predict(X.mean(0, keepdims=True), return_std=True)
    _, far = model.predict(X.mean(0, keepdims=True) + 20, return_std=True)
    assert far[0] > 3 * near[0]


def test_units_do_not_matter(data: tuple[NDArray, ...]) -> None:
    X, y, unseen, _ = data
    mean, std = AccuracyGP().fit(X, y).predict(unseen, return_std=True)
    scaled = AccuracyGP().fit(1000 * X + 5, 100 * y + 3)
    mean_scaled, std_scaled = scaled.predict(1000 * unseen + 5, return_std=True)
    assert mean_scaled == pytest.approx(100 * mean + 3, rel=1e-3)
    assert std_scaled == pytest.approx(100 * std, rel=2e-2)


@pytest.mark.parametrize("count", [1, 2, 30])
def test_constant_accuracies(count: int) -> None:
    X = np.random.default_rng(0).normal(size=(count, 3))
    mean, std = AccuracyGP().fit(X, np.full(count, 0.5)).predict(X, return_std=True)
    assert mean == pytest.approx(np.full(count, 0.5), abs=1e-6)
    assert np.isfinite(std).all()


def test_constant_feature(data: tuple[NDArray, ...]) -> None:
    X, y, unseen, _ = data
    constant = [np.hstack([part, np.ones((len(part), 1))]) for part in (X, unseen)]
    mean, std = AccuracyGP().fit(constant[0], y).predict(constant[1], return_std=True)
    assert np.isfinite(mean).all() and np.isfinite(std).all()
    assert np.abs(mean - smooth(unseen)).mean() < 0.02


def test_length_scales_keep_to_the_floor(data: tuple[NDArray, ...]) -> None:
    X, y, _, _ = data
    for floor in (0.5, 2.5):
        model = clone(AccuracyGP(length_scale_floor=floor)).fit(X, y)
        assert model.gp_.kernel_.k1.k2.length_scale.min() >= floor * (1 - 1e-9)


def test_same_data_same_model(data: tuple[NDArray, ...]) -> None:
    X, y, unseen, _ = data
    first, again = AccuracyGP().fit(X, y), AccuracyGP().fit(X, y)
    assert np.array_equal(first.predict(unseen), again.predict(unseen))
    assert np.array_equal(first.predict(unseen), pickle.loads(pickle.dumps(first)).predict(unseen))
