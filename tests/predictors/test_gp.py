"""The Gaussian process learns smooth functions, knows how far it may be off, and keeps what it has learned."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from predictors import gp
from predictors.gp import AccuracyGP
from predictors.process import GaussianProcess
from predictors.warp import RankWarp


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


def test_deviations_tell_good_predictions_from_bad_ones(data: tuple[NDArray, ...]) -> None:
    X, y, unseen, _ = data
    mean, std = AccuracyGP().fit(X, y).predict(unseen, return_std=True)
    assert stats.spearmanr(std, np.abs(mean - smooth(unseen))).statistic > 0.2


def test_noise_is_that_of_the_data(data: tuple[NDArray, ...]) -> None:
    X, y, _, _ = data
    # 0.01 of accuracies that deviate by y.std(), whose ranks deviate by one.
    assert AccuracyGP().fit(X, y).noise_ == pytest.approx((0.01 / y.std()) ** 2, rel=1.2)


def test_uncertainty_grows_away_from_the_data(data: tuple[NDArray, ...]) -> None:
    X, y, _, _ = data
    model = AccuracyGP().fit(X, y)
    _, near = model.latent(X.mean(0, keepdims=True))
    _, far = model.latent(X.mean(0, keepdims=True) + 50)
    assert far[0] > 3 * near[0] and far[0] == pytest.approx(model.gp_.hyper.signal**0.5, rel=0.05)


def test_units_of_features_do_not_matter(data: tuple[NDArray, ...]) -> None:
    X, y, unseen, _ = data
    scaled = AccuracyGP().fit(1000 * X + 5, y)
    assert scaled.predict(1000 * unseen + 5) == pytest.approx(AccuracyGP().fit(X, y).predict(unseen), rel=1e-3)


def test_constant_feature(data: tuple[NDArray, ...]) -> None:
    X, y, unseen, _ = data
    constant = [np.hstack([part, np.ones((len(part), 1))]) for part in (X, unseen)]
    assert np.abs(AccuracyGP().fit(constant[0], y).predict(constant[1]) - smooth(unseen)).mean() < 0.02


def test_the_last_features_share_a_scale(data: tuple[NDArray, ...]) -> None:
    X, y, _, _ = data
    apart, shared = (AccuracyGP(together=n).fit(X, y).gp_.hyper.scales for n in (0, 3))
    assert len(set(apart)) == 4
    assert shared[1] == shared[2] == shared[3] != shared[0]


def test_observing_keeps_hyper_parameters_and_scaling(data: tuple[NDArray, ...]) -> None:
    X, y, unseen, _ = data
    model = AccuracyGP().fit(X[:40], y[:40])
    more = model.observing(X, y)
    assert more.gp_.hyper is model.gp_.hyper and more.scaler_ is model.scaler_ and more.width_ == model.width_
    expected = GaussianProcess(model.scaler_.transform(X), RankWarp(y).z, model.gp_.hyper)
    assert np.array_equal(more.latent(unseen), expected.predict(model.scaler_.transform(unseen)))
    # The same observations anew are no news.
    assert np.array_equal(model.observing(X[:40], y[:40]).predict(unseen), model.predict(unseen))


def test_observing_learns_nothing_anew(data: tuple[NDArray, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    X, y, _, _ = data
    model = AccuracyGP().fit(X[:40], y[:40])
    monkeypatch.setattr(gp, "learn", None)
    model.observing(X, y).believing(X[:2])
    with pytest.raises(TypeError):
        model.fit(X, y)


def test_believing_makes_sure_without_making_better(data: tuple[NDArray, ...]) -> None:
    X, y, unseen, _ = data
    model = AccuracyGP().fit(X, y)
    believed = model.believing(unseen[:5])
    assert believed.predict(unseen) == pytest.approx(model.predict(unseen), abs=1e-5)
    assert (believed.latent(unseen[:5])[1] < model.latent(unseen[:5])[1]).all()
    assert believed.warp_ is model.warp_
