"""The map between accuracies and the normal quantiles of their ranks."""

import numpy as np
import pytest
from scipy.stats import norm

from predictors.warp import RankWarp


@pytest.mark.parametrize("seed", range(5))
def test_there_and_back(seed: int) -> None:
    rng = np.random.default_rng(seed)
    y = rng.exponential(size=int(rng.integers(2, 60))).round(1)  # some are equal
    warp = RankWarp(y)
    assert warp.back(warp.z) == pytest.approx(y)
    assert warp.there(y) == pytest.approx(warp.z)
    between = np.linspace(warp.knots[0], warp.knots[-1], 50)
    assert warp.there(warp.back(between)) == pytest.approx(between, abs=1e-9)


def test_numbers_are_normal_quantiles_of_ranks() -> None:
    warp = RankWarp(np.array([0.9, 0.1, 0.5, 0.6]))
    assert warp.z == pytest.approx(norm.ppf([0.875, 0.125, 0.375, 0.625]))
    assert np.array_equal(warp.knots, np.sort(warp.z))


def test_equal_values_share_the_mean_of_their_ranks() -> None:
    warp = RankWarp(np.array([0.3, 0.7, 0.3, 0.3]))
    assert warp.z == pytest.approx(norm.ppf([0.375, 0.875, 0.375, 0.375]))  # ranks 2, 4, 2, 2
    assert len(warp.knots) == 2 and warp.back(np.array([warp.z[0]])) == pytest.approx([0.3])


def test_only_the_order_matters() -> None:
    y = np.random.default_rng(0).normal(size=30)
    assert np.array_equal(RankWarp(y).z, RankWarp(np.exp(3 * y) - 7).z)


def test_back_rises_everywhere() -> None:
    warp = RankWarp(np.random.default_rng(1).exponential(size=40))
    assert (np.diff(warp.back(np.linspace(-8, 8, 2000))) > 0).all()


def test_beyond_the_observations_the_outer_fifth_goes_on() -> None:
    y = np.array([1.0, 2, 4, 7, 11, 16, 22, 29, 37, 46])
    warp = RankWarp(y)
    low = (y[2] - y[0]) / (warp.z[2] - warp.z[0])
    high = (y[9] - y[7]) / (warp.z[9] - warp.z[7])
    assert warp.above == pytest.approx(high)
    assert warp.back(warp.z[[0, 9]] + [-2, 3]) == pytest.approx([1 - 2 * low, 46 + 3 * high])
    assert warp.there(np.array([1 - 2 * low, 46 + 3 * high])) == pytest.approx(warp.z[[0, 9]] + [-2, 3])


def test_two_values_make_a_line() -> None:
    warp = RankWarp(np.array([0.25, 0.75]))
    z = np.array([-4.0, 0.0, 4.0])
    assert warp.back(z) == pytest.approx(0.5 + 0.25 * z / warp.knots[1])


@pytest.mark.parametrize("y", [[0.4], [0.4, 0.4, 0.4]])
def test_one_value_is_all_there_is(y: list[float]) -> None:
    warp = RankWarp(np.array(y))
    assert warp.z == pytest.approx(np.zeros(len(y)), abs=1e-12) and warp.above == 0
    assert warp.back(np.array([-9.0, 0.0, 9.0])) == pytest.approx([0.4] * 3)
    assert warp.there(np.array([0.1, 0.4, 0.9])) == pytest.approx([0, 0, 0], abs=1e-12)
