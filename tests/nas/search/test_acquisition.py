"""Expected hypervolume improvement in closed form against drawing accuracies and measuring the volume gained."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.integrate import quad
from scipy.stats import norm

from nas.search.acquisition import expected_hypervolume_improvement, expected_improvement, warped_improvement
from nas.search.pareto import front_levels, hypervolume
from predictors.warp import RankWarp

Points = list[tuple[float, float]]
FLOOR, CEILING_MS = 0.3, 10.0


def line(low: float = 0.25, high: float = 0.75) -> RankWarp:
    """Return a map that is a straight line: of two values, and so of a standard deviation of its slope."""
    return RankWarp(np.array([low, high]))


def closed_form(points: Points, mean: float, std: float, ms: float, ceiling_ms: float = CEILING_MS) -> float:
    """Return the expected gain of an accuracy that is Gaussian."""
    steps_ms, levels = front_levels(points, FLOOR)
    improvement = expected_improvement(np.array([[mean]]), np.array([[std]]), levels)
    return float(expected_hypervolume_improvement(improvement, np.array([ms]), steps_ms, ceiling_ms)[0])


def mean_gain(points: Points, accuracies: NDArray, ms: float, floor: float) -> tuple[float, float]:
    """Return the mean gain over drawn accuracies and its standard error."""
    before = hypervolume(points, floor, CEILING_MS)
    gains = np.array([hypervolume([*points, (float(a), ms)], floor, CEILING_MS) - before for a in accuracies])
    return float(gains.mean()), float(gains.std() / len(accuracies) ** 0.5)


def spread(draws: int) -> NDArray:
    """Return normal quantiles, evenly spread and shifted at random: they vary less than independent draws."""
    rng = np.random.default_rng(0)
    return norm.ppf((np.arange(draws) + rng.random(draws)) / draws)


@pytest.mark.parametrize("seed", range(8))
def test_closed_form_is_the_mean_gain(seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = [(float(a), float(ms)) for a, ms in rng.uniform([0.2, 1], [0.9, 12], (rng.integers(0, 9), 2))]
    mean, std, ms = rng.uniform([0.2, 0.01, 0.5], [0.95, 0.3, 11])
    expected, error = mean_gain(points, mean + std * spread(3000), ms, FLOOR)
    assert closed_form(points, mean, std, ms) == pytest.approx(expected, abs=3 * error + 1e-6)


def observed(n: int, seed: int) -> tuple[Points, RankWarp, float]:
    """Return skewed accuracies with latencies, the map of their ranks, and the lowest of them."""
    rng = np.random.default_rng(seed)
    accuracies = 0.9 - 0.2 * rng.exponential(size=n)
    return (
        list(zip(accuracies.tolist(), rng.uniform(1, 12, n).tolist(), strict=True)),
        RankWarp(accuracies),
        float(accuracies.min()),
    )


def warped(points: Points, warp: RankWarp, floor: float, mean: NDArray, std: NDArray, ms: NDArray) -> NDArray:
    steps_ms, levels = front_levels(points, floor)
    return expected_hypervolume_improvement(warped_improvement(mean, std, warp, levels), ms, steps_ms, CEILING_MS)


@pytest.mark.parametrize(("n", "seed"), [(1, 0), (2, 1), (3, 2), (8, 3), (20, 4), (60, 5), (60, 6)])
def test_mapped_form_is_the_mean_gain(n: int, seed: int) -> None:
    points, warp, floor = observed(n, seed)
    rng = np.random.default_rng(seed)
    mean, std, ms = rng.uniform([-2, 0.05, 0.5], [2.5, 1.5, 11], (4, 3)).T
    found = warped(points, warp, floor, mean, std, ms)
    for i in range(4):
        expected, error = mean_gain(points, warp.back(mean[i] + std[i] * spread(2000)), ms[i], floor)
        assert found[i] == pytest.approx(expected, abs=3 * error + 1e-6)


def test_many_observations_are_summed_up_by_a_few_pieces() -> None:
    points, warp, floor = observed(700, 7)
    mean, std = np.array([-1.0, 0.5, 2.0, 3.0]), np.array([1.0, 0.3, 0.2, 0.5])
    levels = front_levels(points, floor)[1]
    found = warped_improvement(mean, std, warp, levels)
    for i in range(4):
        accuracies = warp.back(mean[i] + std[i] * spread(20_000))
        expected = np.maximum(accuracies[:, None] - levels, 0).mean(0)
        assert found[i] == pytest.approx(expected, rel=0.01, abs=1e-3 * expected.max())


def test_through_a_line_it_is_the_gaussian_form() -> None:
    warp = line()
    slope = warp.above
    rng = np.random.default_rng(0)
    mean, std = rng.uniform(-1.5, 2, 30), rng.uniform(0.05, 1, 30)
    found = warped_improvement(mean, std, warp, np.array([0.25, 0.4, 0.75]))
    expected = [expected_improvement(0.5 + slope * mean, slope * std, np.array(level)) for level in (0.25, 0.4, 0.75)]
    assert found == pytest.approx(np.transpose(expected), abs=1e-12)


def test_one_observed_value_leaves_nothing_to_gain() -> None:
    warp = RankWarp(np.full(5, 0.4))
    assert warped_improvement(np.array([0.0, 3.0]), np.ones(2), warp, np.array([0.4])).tolist() == [[0.0], [0.0]]


def test_nothing_to_rate() -> None:
    points, warp, floor = observed(8, 0)
    assert warped(points, warp, floor, np.empty(0), np.empty(0), np.empty(0)).shape == (0,)


def test_many_candidates_at_once_are_those_one_by_one() -> None:
    points, warp, floor = observed(30, 1)
    mean, std, ms = np.random.default_rng(0).uniform([-2, 0.01, 0.5], [2, 1, 11], (20, 3)).T
    found = warped(points, warp, floor, mean, std, ms)
    each = [warped(points, warp, floor, mean[[i]], std[[i]], ms[[i]])[0] for i in range(20)]
    assert found.shape == (20,) and found == pytest.approx(each, rel=1e-12)


def test_candidate_at_or_beyond_the_ceiling_gains_nothing() -> None:
    for ms in (CEILING_MS, CEILING_MS + 1, 1e9):
        assert closed_form([(0.5, 2.0)], 0.99, 0.1, ms) == 0
        assert closed_form([], 0.99, 0.1, ms) == 0


def test_front_beyond_the_ceiling_does_not_count() -> None:
    assert closed_form([(0.5, 2.0), (0.9, 12.0)], 0.7, 0.1, 3.0) == pytest.approx(
        closed_form([(0.5, 2.0)], 0.7, 0.1, 3)
    )


def test_without_a_front_only_the_floor_is_improved() -> None:
    (improvement,) = expected_improvement(np.array([0.6]), np.array([0.2]), np.array([FLOOR]))
    assert closed_form([], 0.6, 0.2, 4.0) == pytest.approx((CEILING_MS - 4) * improvement)


def test_almost_certain_candidates() -> None:
    points = [(0.5, 2.0), (0.8, 6.0)]
    # Above both from 3 ms on: 0.2 more from 3 to 6 ms; 0.1 less than the second.
    assert closed_form(points, 0.7, 1e-9, 3.0) == pytest.approx(0.2 * 3)
    assert closed_form(points, 0.9, 1e-9, 1.0) == pytest.approx(0.6 + 0.4 * 4 + 0.1 * 4)
    assert closed_form(points, 0.45, 1e-9, 3.0) == pytest.approx(0, abs=1e-8)


def test_almost_certain_candidates_behind_the_map() -> None:
    points, warp, floor = observed(12, 3)
    before = hypervolume(points, floor, CEILING_MS)
    for mean in (-1.0, 0.3, 2.5):
        certain = (float(warp.back(np.array([mean]))[0]), 2.0)
        (found,) = warped(points, warp, floor, np.array([mean]), np.array([1e-7]), np.array([2.0]))
        assert found == pytest.approx(hypervolume([*points, certain], floor, CEILING_MS) - before, abs=1e-5)


@pytest.mark.parametrize(("mean", "std", "level"), [(0.5, 0.1, 0.5), (0.2, 0.3, 0.6), (0.9, 0.05, 0.3)])
def test_expected_improvement_is_the_integral(mean: float, std: float, level: float) -> None:
    expected, _ = quad(lambda a: (a - level) * norm.pdf(a, mean, std), level, max(level, mean) + 10 * std)
    (found,) = expected_improvement(np.array([mean]), np.array([std]), np.array([level]))
    assert found == pytest.approx(expected, abs=1e-8)


def test_uncertainty_is_worth_something_and_speed_too() -> None:
    points = [(0.5, 2.0), (0.8, 6.0)]
    assert closed_form(points, 0.5, 0.2, 3.0) > closed_form(points, 0.5, 0.1, 3.0) > 0
    assert closed_form(points, 0.6, 0.1, 3.0) > closed_form(points, 0.6, 0.1, 3.5)
