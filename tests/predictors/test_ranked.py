"""What holds for every accuracy predictor: scikit-learn's rules, indifference to units, intervals that hold."""

import pickle
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import norm
from sklearn.base import BaseEstimator, clone
from sklearn.utils.estimator_checks import parametrize_with_checks

from predictors import floors
from predictors.floors import AccuracyFloor
from predictors.gp import AccuracyGP
from predictors.ranked import RankedRegressor
from predictors.warp import RankWarp

EVERY = [AccuracyGP(), AccuracyGP(together=2), AccuracyFloor(), AccuracyFloor(kind="forest"), AccuracyFloor(only=0)]
NAMES = ["gp", "gp together", "ridge", "forest", "one column"]


@pytest.fixture(autouse=True)
def few_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(floors, "_TREES", 20)


@parametrize_with_checks([AccuracyGP(), AccuracyFloor(), AccuracyFloor(kind="forest")])
def test_is_a_scikit_learn_estimator(estimator: BaseEstimator, check: Callable[[BaseEstimator], None]) -> None:
    check(estimator)


def smooth(X: NDArray) -> NDArray:
    """Return accuracies that are skewed, as real ones are: few are bad, and those very."""
    return 0.9 - 0.1 * np.exp(0.6 * (np.sin(X[:, 0]) - X[:, 1]))


def drawn(n: int, seed: int = 0, noise: float = 0.01) -> tuple[NDArray, NDArray]:
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 4))
    return X, smooth(X) + rng.normal(scale=noise, size=n)


@pytest.fixture(params=EVERY, ids=NAMES)
def model(request: pytest.FixtureRequest) -> RankedRegressor:
    return clone(request.param)


def test_only_the_order_of_accuracies_matters(model: RankedRegressor) -> None:
    X, y = drawn(40)
    unseen, _ = drawn(30, seed=1)
    model.set_params(calibrated=False).fit(X, y)
    changed = clone(model).fit(X, np.exp(20 * y))
    assert np.array_equal(model.latent(unseen), changed.latent(unseen))
    assert np.array_equal(np.argsort(model.predict(unseen)), np.argsort(changed.predict(unseen)))


def test_units_do_not_matter(model: RankedRegressor) -> None:
    X, y = drawn(40)
    unseen, _ = drawn(30, seed=1)
    model.fit(X, y)
    scaled = clone(model).fit(X, 100 * y + 3)
    assert scaled.width_ == pytest.approx(model.width_)
    for ours, theirs in zip(
        model.predict(unseen, return_std=True), scaled.predict(unseen, return_std=True), strict=True
    ):
        assert theirs == pytest.approx(100 * ours + (3 if ours[0] > 0.3 else 0))
    for ours, theirs in zip(model.interval(unseen), scaled.interval(unseen), strict=True):
        assert theirs == pytest.approx(100 * ours + 3)
    # Features in other units; powers of two, so that not even trees meet other numbers.
    moved = clone(model).fit(1024 * X, y)
    assert moved.predict(1024 * unseen) == pytest.approx(model.predict(unseen), rel=1e-6)


@pytest.mark.parametrize("count", [1, 2, 30])
def test_constant_accuracies(count: int, model: RankedRegressor) -> None:
    X, _ = drawn(count)
    median, std = model.fit(X, np.full(count, 0.5)).predict(X, return_std=True)
    assert median == pytest.approx(np.full(count, 0.5)) and std == pytest.approx(np.zeros(count), abs=1e-12)
    assert np.ravel(model.interval(X)) == pytest.approx(np.full(2 * count, 0.5))


def test_constant_features(model: RankedRegressor) -> None:
    X, y = drawn(40)
    unseen, _ = drawn(30, seed=1)
    constant = [np.hstack([part, np.ones((len(part), 1))]) for part in (X, unseen)]
    mean, std = model.fit(constant[0], y).latent(constant[1])
    assert np.isfinite(mean).all() and (std > 0).all()
    # All features constant: nothing can be told apart.
    assert np.ptp(clone(model).fit(np.ones_like(X), y).predict(np.ones_like(X))) < 1e-9


def test_medians_lie_within_their_intervals_and_deviations_are_those_of_the_map(model: RankedRegressor) -> None:
    X, y = drawn(40)
    unseen, _ = drawn(30, seed=1)
    median, std = model.fit(X, y).predict(unseen, return_std=True)
    low, high = model.interval(unseen)
    assert np.array_equal(median, model.predict(unseen))
    assert (low < median).all() and (median < high).all()
    at, latent_std = model.latent(unseen)
    warp = RankWarp(y)
    assert median == pytest.approx(warp.back(at))
    assert std == pytest.approx((warp.back(at + latent_std) - warp.back(at - latent_std)) / 2)
    reach = model.width_ * np.sqrt(latent_std**2 + model.noise_)
    assert low == pytest.approx(warp.back(at - reach)) and high == pytest.approx(warp.back(at + reach))


@pytest.mark.parametrize("n", [30, 100])
def test_intervals_hold_nine_of_ten(n: int, model: RankedRegressor) -> None:
    shares = []
    for seed in range(4):
        X, y = drawn(n, seed)
        unseen, observed = drawn(300, seed + 100)
        low, high = clone(model).fit(X, y).interval(unseen)
        shares.append(np.mean((low <= observed) & (observed <= high)))
    assert 0.8 <= np.mean(shares) <= 1


def test_what_trusts_itself_too_much_gets_wider_intervals() -> None:
    def noisy(n: int, seed: int) -> tuple[NDArray, NDArray]:
        rng = np.random.default_rng(seed)
        X = rng.normal(size=(n, 40))
        return X, smooth(X) + rng.normal(scale=0.1, size=n)

    shares: dict[bool, list[float]] = {False: [], True: []}
    for seed in range(4):
        X, y = noisy(40, seed)  # as many features as observations
        unseen, observed = noisy(300, seed + 100)
        widths = {}
        for calibrated in shares:
            model = AccuracyGP(calibrated).fit(X, y)
            low, high = model.interval(unseen)
            shares[calibrated].append(np.mean((low <= observed) & (observed <= high)))
            widths[calibrated] = model.width_
        assert widths[False] == norm.ppf(0.95) < widths[True]
    assert np.mean(shares[False]) < 0.8 < 0.87 < np.mean(shares[True])


def test_width_by_hand() -> None:
    class Sure(RankedRegressor):
        """Predicts the middle, with a deviation of half and a noise of three quarters: together of one."""

        def _learn(self, X: NDArray, z: NDArray) -> None:
            self.noise_ = 0.75

        def _latent(self, X: NDArray) -> tuple[NDArray, NDArray]:
            return np.zeros(len(X)), np.full(len(X), 0.5)

    y = np.random.default_rng(0).normal(size=5000)
    width = Sure().fit(y[:, None], y).width_
    assert width == pytest.approx(norm.ppf(0.95), rel=0.03)  # ranks are normal, as it expects
    X, few = np.zeros((10, 1)), y[:10]
    farthest = Sure().fit(X, few).width_  # of ten, 0.9 * 11 / 10 of them are all but one hundredth
    assert farthest > np.sort(np.abs(RankWarp(few).z))[-1] - 0.5
    assert Sure().fit(X[:9], few[:9]).width_ == norm.ppf(0.95)  # too few to say


def test_observing_keeps_what_believing_changes(model: RankedRegressor) -> None:
    X, y = drawn(40)
    unseen, _ = drawn(30, seed=1)
    model.set_params(calibrated=False).fit(X[:30], y[:30])
    before = pickle.dumps(model)
    more = model.observing(X, y)
    assert type(more) is type(model) and more.get_params() == model.get_params()
    assert more.warp_.z == pytest.approx(RankWarp(y).z)
    assert len(more.predict(unseen)) == 30 and not np.array_equal(more.predict(unseen), model.predict(unseen))
    believed = model.believing(X[30:])
    assert believed.predict(X[30:]) == pytest.approx(model.predict(X[30:]), abs=5e-3)
    assert pickle.dumps(model) == before


def test_same_data_same_model(model: RankedRegressor) -> None:
    X, y = drawn(40)
    unseen, _ = drawn(30, seed=1)
    first, again = clone(model).fit(X, y), clone(model).fit(X, y)
    for other in (again, pickle.loads(pickle.dumps(first))):
        assert other.width_ == first.width_
        assert np.array_equal(first.interval(unseen), other.interval(unseen))
        assert np.array_equal(first.predict(unseen, return_std=True), other.predict(unseen, return_std=True))
