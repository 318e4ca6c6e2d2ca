"""The Gaussian process against scikit-learn's, and the hyper-parameters that it learns."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import approx_fprime
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from predictors import process
from predictors.process import GaussianProcess, Hyperparameters, learn


def observed(n: int, d: int, seed: int = 0) -> tuple[NDArray, NDArray]:
    """Return standardised features and a smooth target of the first two, with a little noise."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d))
    X = (X - X.mean(0)) / X.std(0)
    z = np.sin(1.5 * X[:, 0]) + 0.5 * X[:, -1] + rng.normal(scale=0.1, size=n)
    return X, (z - z.mean()) / z.std()


def reference(X: NDArray, z: NDArray, hyper: Hyperparameters) -> GaussianProcessRegressor:
    kernel = ConstantKernel(hyper.signal) * Matern(hyper.scales, nu=2.5) + WhiteKernel(hyper.noise)
    return GaussianProcessRegressor(kernel, alpha=1e-8, optimizer=None).fit(X, z)


@pytest.mark.parametrize(("n", "d"), [(1, 1), (7, 3), (60, 5)])
def test_posterior_is_that_of_scikit_learn(n: int, d: int) -> None:
    rng = np.random.default_rng(n)
    X, z = rng.normal(size=(n, d)), rng.normal(size=n)
    hyper = Hyperparameters(rng.uniform(0.5, 4, d), signal=1.7, noise=0.05)
    at = np.vstack([rng.normal(size=(40, d)), X[:5], X[:1] + 50])
    mean, std = GaussianProcess(X, z, hyper).predict(at)
    theirs = reference(X, z, hyper)
    expected, with_noise = theirs.predict(at, return_std=True)
    assert mean == pytest.approx(expected, abs=1e-9)
    assert std == pytest.approx(np.sqrt(with_noise**2 - hyper.noise), rel=1e-3)


def test_far_from_the_data_it_knows_nothing() -> None:
    X, z = observed(30, 3)
    mean, std = GaussianProcess(X, z, Hyperparameters(np.ones(3), 2.0, 0.1)).predict(X[:3] + 1e3)
    assert mean == pytest.approx(np.zeros(3), abs=1e-9) and std == pytest.approx(np.full(3, 2.0**0.5))


def test_deviations_are_positive_even_without_noise() -> None:
    X, z = observed(80, 2)
    twice = np.vstack([X, X]), np.concatenate([z, z])
    _, std = GaussianProcess(*twice, Hyperparameters(np.full(2, 30.0), 1.0, 1e-7)).predict(X)
    assert np.isfinite(std).all() and (std > 0).all()


def test_many_rows_are_predicted_as_few_at_a_time() -> None:
    X, z = observed(50, 4)
    gp = GaussianProcess(X, z, Hyperparameters(np.full(4, 2.0), 1.0, 0.1))
    many = np.random.default_rng(1).normal(size=(2 * process._CHUNK + 7, 4))
    mean, std = gp.predict(many)
    for i in (0, process._CHUNK - 1, process._CHUNK, 2 * process._CHUNK, len(many) - 1):
        one = gp.predict(many[i : i + 1])
        assert (mean[i], std[i]) == pytest.approx((one[0][0], one[1][0]), rel=1e-4)
    assert [part.shape for part in gp.predict(many[:0])] == [(0,), (0,)]


def test_believing_is_observing_the_mean() -> None:
    X, z = observed(40, 3)
    hyper = Hyperparameters(np.array([1.0, 2.0, 3.0]), 1.2, 0.05)
    gp, at, rest = GaussianProcess(X, z, hyper), X[:3] + 0.4, X[5:15] + 0.3
    mean, std = gp.predict(at)
    believed = gp.believing(at).predict(rest)
    again = reference(np.vstack([X, at]), np.append(z, mean), hyper)
    assert believed[0] == pytest.approx(again.predict(rest), abs=1e-9)
    assert believed[0] == pytest.approx(gp.predict(rest)[0], abs=1e-6)  # nothing new was learned
    assert (gp.believing(at).predict(at)[1] < std).all()
    assert (believed[1] <= gp.predict(rest)[1] * (1 + 1e-5)).all()


Objective = Callable[[NDArray], tuple[float, NDArray]]


class Found:
    """Takes the place of ``minimize``: keeps what it is asked, and finds the start."""

    fun: Objective

    def __call__(self, fun: Objective, x0: NDArray, **options: Any) -> "Found":
        self.fun, self.x, self.options = fun, x0, options
        return self


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Found:
    found = Found()
    monkeypatch.setattr(process, "minimize", found)
    return found


@pytest.mark.parametrize("groups", [[0, 1, 2, 3], [0, 1, 1, 1], [0, 0, 0, 0]])
def test_gradient_is_that_of_finite_differences(groups: list[int], asked: Found) -> None:
    X, z = observed(25, 4)
    X[:, 2] = np.where(X[:, 2] > 0, 1.0, -1.0)
    learn(X, z, np.array(groups))
    rng = np.random.default_rng(0)
    for _ in range(4):
        theta = asked.x + rng.normal(scale=0.5, size=asked.x.shape)
        value, gradient = asked.fun(theta)
        assert np.isfinite(value) and gradient.shape == (max(groups) + 3,)
        numeric = approx_fprime(theta, lambda t: asked.fun(t)[0], 1e-6)
        assert gradient == pytest.approx(numeric, rel=1e-3, abs=1e-3)


def test_objective_is_the_marginal_likelihood_and_the_priors(asked: Found) -> None:
    X, z = observed(25, 3)
    learn(X, z, np.arange(3))
    mean = asked.x
    rng = np.random.default_rng(1)
    thetas = mean + rng.normal(scale=0.3, size=(2, 5))
    # The normalisations that do not depend on the hyper-parameters are left out: differences agree.
    ours = [asked.fun(theta)[0] for theta in thetas]
    theirs = []
    for theta in thetas:
        likelihood = reference(X, z, Hyperparameters(np.exp(theta[:3]), *np.exp(theta[3:]))).log_marginal_likelihood()
        theirs.append(-likelihood + 0.5 * ((theta - mean) ** 2).sum())  # all priors are of deviation 1
    assert ours[0] - ours[1] == pytest.approx(theirs[0] - theirs[1], rel=1e-6)


def test_singular_covariances_are_steered_around(asked: Found, monkeypatch: pytest.MonkeyPatch) -> None:
    learn(*observed(20, 2), np.arange(2))

    def singular(*_: Any, **__: Any) -> None:
        raise process.LinAlgError

    monkeypatch.setattr(process, "cho_factor", singular)
    value, gradient = asked.fun(asked.x)
    assert value >= 1e10 and np.array_equal(gradient, np.zeros(4))


def test_indicators_are_expected_to_matter_less(asked: Found) -> None:
    X, z = observed(30, 3)
    X[:, 1] = X[:, 1] > 0
    scales = learn(X, z, np.arange(3)).scales
    assert scales[0] == scales[2] == pytest.approx(3**0.5 * np.exp(process._SCALE))
    assert scales[1] == pytest.approx(scales[0] * np.exp(process._INDICATOR))
    assert scales[1] > 2 * scales[0]
    # Features that share a scale are expected to matter as they do on average.
    shared = learn(X, z, np.array([0, 1, 1])).scales
    assert shared[1] == shared[2] == pytest.approx(np.sqrt(scales[1] * scales[2]))


def test_expected_scales_grow_with_the_number_of_features(asked: Found) -> None:
    few, many = (learn(*observed(30, d), np.arange(d)).scales for d in (2, 8))
    assert many[0] == pytest.approx(2 * few[0])


def test_groups_share_a_scale() -> None:
    X, z = observed(60, 4)
    apart, together = learn(X, z, np.arange(4)).scales, learn(X, z, np.array([0, 1, 1, 1])).scales
    assert len(set(apart)) == 4
    assert together[1] == together[2] == together[3] != together[0]


def test_what_matters_gets_a_short_scale_and_the_noise_is_found() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(150, 4))
    z = np.sin(2 * X[:, 0]) * 2**0.5 + rng.normal(scale=0.3, size=150)
    hyper = learn(X, z, np.arange(4))
    assert hyper.scales[0] < 0.3 * hyper.scales[1:].min()
    assert hyper.noise == pytest.approx(0.09, rel=0.5)


def test_learned_is_more_probable_than_the_priors_means(monkeypatch: pytest.MonkeyPatch) -> None:
    X, z = observed(40, 3)
    learned = learn(X, z, np.arange(3))
    found = Found()
    monkeypatch.setattr(process, "minimize", found)
    learn(X, z, np.arange(3))
    theta = np.log([*learned.scales, learned.signal, learned.noise])
    value, gradient = found.fun(theta)
    assert value < found.fun(found.x)[0] - 1
    assert np.abs(gradient).max() < 0.5


def test_many_observations_are_learned_from_a_spread_of_them(asked: Found) -> None:
    X, z = observed(700, 2)
    learn(X, z, np.arange(2))
    many = asked.fun(asked.x)
    chosen = np.sort(np.argsort(z)[np.linspace(0, 699, 300).round().astype(int)])
    learn(X[chosen], z[chosen], np.arange(2))
    assert many[0] == asked.fun(asked.x)[0]
    assert {int(np.argmin(z)), int(np.argmax(z))} <= set(chosen)


def test_many_tied_observations() -> None:
    X, _ = observed(400, 2)
    z = np.where(X[:, 0] > 0, 1.0, -1.0)
    hyper = learn(X, z, np.arange(2))
    assert hyper.scales[0] < hyper.scales[1]


@pytest.mark.parametrize("n", [1, 2, 30])
def test_constant_columns_and_targets(n: int) -> None:
    X = np.column_stack([np.zeros(n), observed(n, 1)[0] if n > 1 else np.zeros(1)])
    for z in (np.zeros(n), np.linspace(-1, 1, n)):
        hyper = learn(X, z, np.arange(2))
        assert np.isfinite([*hyper.scales, hyper.signal, hyper.noise]).all()
        mean, std = GaussianProcess(X, z, hyper).predict(X)
        assert np.isfinite(mean).all() and (std > 0).all()
    # What never varied tells nothing: its scale is the one expected.
    assert hyper.scales[0] == pytest.approx(2**0.5 * np.exp(process._SCALE + process._INDICATOR), rel=1e-3)
