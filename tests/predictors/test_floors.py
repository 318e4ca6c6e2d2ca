"""The floors are the models of scikit-learn behind the map of ranks."""

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import BayesianRidge, LinearRegression

from predictors.floors import AccuracyFloor
from predictors.warp import RankWarp


@pytest.fixture(scope="module")
def data() -> tuple[NDArray, NDArray, NDArray]:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(90, 3)) * [1, 10, 100] + 5
    y = 0.6 + 0.1 * X[:, 0] - 0.005 * X[:, 1] + rng.normal(scale=0.05, size=90)
    return X[:60], y[:60], X[60:]


def test_ridge_is_the_bayesian_one(data: tuple[NDArray, ...]) -> None:
    X, y, unseen = data
    model = AccuracyFloor().fit(X, y)
    middle, spread = X.mean(0), X.std(0)
    theirs = BayesianRidge().fit((X - middle) / spread, RankWarp(y).z)
    mean, std = theirs.predict((unseen - middle) / spread, return_std=True)
    ours = model.latent(unseen)
    assert ours[0] == pytest.approx(mean)
    assert model.noise_ == pytest.approx(1 / theirs.alpha_)
    assert np.sqrt(ours[1] ** 2 + model.noise_) == pytest.approx(std)
    line = LinearRegression().fit(X, RankWarp(y).z)
    assert ours[0] == pytest.approx(line.predict(unseen), abs=0.1)


def test_forest_is_the_mean_of_its_trees(data: tuple[NDArray, ...]) -> None:
    X, y, unseen = data
    model = AccuracyFloor(calibrated=False, kind="forest").fit(X, y)
    scaled = (unseen - X.mean(0)) / X.std(0)
    mean, std = model.latent(unseen)
    assert mean == pytest.approx(model.model_.predict(scaled))
    each = [tree.predict(scaled) for tree in model.model_.estimators_]
    assert len(each) == 100 and std == pytest.approx(np.std(each, axis=0))
    assert np.abs(mean - model.latent(unseen)[0]).max() == 0


@pytest.mark.parametrize("kind", ["ridge", "forest"])
def test_only_one_column_is_looked_at(kind: str, data: tuple[NDArray, ...]) -> None:
    X, y, unseen = data
    rng = np.random.default_rng(1)
    model = AccuracyFloor(calibrated=False, kind=kind, only=-3).fit(X, y)  # type: ignore[arg-type]
    other = np.column_stack([unseen[:, 0], rng.normal(size=(len(unseen), 2))])
    assert np.array_equal(model.predict(unseen), model.predict(other))
    alone = AccuracyFloor(calibrated=False, kind=kind).fit(X[:, :1], y)  # type: ignore[arg-type]
    assert model.predict(unseen) == pytest.approx(alone.predict(unseen[:, :1]))


def test_one_column_gives_its_order(data: tuple[NDArray, ...]) -> None:
    X, y, unseen = data
    model = AccuracyFloor(only=0).fit(X, y)
    assert np.array_equal(np.argsort(model.predict(unseen)), np.argsort(unseen[:, 0]))


def test_a_line_where_all_is_certain() -> None:
    X = np.linspace(0, 1, 30)[:, None]
    mean, std = AccuracyFloor().fit(X, RankWarp(X[:, 0]).z * 0 + X[:, 0]).latent(X)
    assert (np.diff(mean) > 0).all() and (std > 0).all() and np.isfinite(std).all()
