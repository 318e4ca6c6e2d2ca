"""Expected hypervolume improvement in closed form against drawing accuracies and measuring the volume gained."""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from nas.search.acquisition import expected_hypervolume_improvement, expected_improvement
from nas.search.pareto import front_levels, hypervolume

Points = list[tuple[float, float]]
FLOOR, CEILING_MS = 0.3, 10.0


def closed_form(points: Points, mean: float, std: float, ms: float, ceiling_ms: float = CEILING_MS) -> float:
    steps_ms, levels = front_levels(points, FLOOR)
    arrays = (np.array([mean]), np.array([std]), np.array([ms]))
    return float(expected_hypervolume_improvement(*arrays, steps_ms, levels, ceiling_ms)[0])


def by_drawing(points: Points, mean: float, std: float, ms: float, draws: int = 4000) -> tuple[float, float]:
    """Return the mean gain over drawn accuracies and its standard error."""
    before = hypervolume(points, FLOOR, CEILING_MS)
    # Evenly spread quantiles, shifted at random, vary less than independent draws.
    rng = np.random.default_rng(0)
    quantiles = (np.arange(draws) + rng.random(draws)) / draws
    accuracies = norm.ppf(quantiles, mean, std)
    gains = np.array([hypervolume([*points, (float(a), ms)], FLOOR, CEILING_MS) - before for a in accuracies])
    return float(gains.mean()), float(gains.std() / draws**0.5)


@pytest.mark.parametrize("seed", range(12))
def test_closed_form_is_the_mean_gain(seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = [(float(a), float(ms)) for a, ms in rng.uniform([0.2, 1], [0.9, 12], (rng.integers(0, 9), 2))]
    mean, std, ms = rng.uniform([0.2, 0.01, 0.5], [0.95, 0.3, 11])
    expected, error = by_drawing(points, mean, std, ms)
    assert closed_form(points, mean, std, ms) == pytest.approx(expected, abs=3 * error + 1e-6)


def test_many_candidates_at_once_are_those_one_by_one() -> None:
    rng = np.random.default_rng(0)
    points = [(0.5, 2.0), (0.7, 4.0), (0.8, 8.0)]
    mean, std, ms = rng.uniform([0.2, 0.01, 0.5], [0.95, 0.3, 11], (20, 3)).T
    steps_ms, levels = front_levels(points, FLOOR)
    found = expected_hypervolume_improvement(mean, std, ms, steps_ms, levels, CEILING_MS)
    assert found.shape == (20,)
    each = [closed_form(points, *candidate) for candidate in zip(mean, std, ms, strict=True)]
    assert found == pytest.approx(each, rel=1e-12)


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


@pytest.mark.parametrize(("mean", "std", "level"), [(0.5, 0.1, 0.5), (0.2, 0.3, 0.6), (0.9, 0.05, 0.3)])
def test_expected_improvement_is_the_integral(mean: float, std: float, level: float) -> None:
    expected, _ = quad(lambda a: (a - level) * norm.pdf(a, mean, std), level, max(level, mean) + 10 * std)
    (found,) = expected_improvement(np.array([mean]), np.array([std]), np.array([level]))
    assert found == pytest.approx(expected, abs=1e-8)


def test_uncertainty_is_worth_something_and_speed_too() -> None:
    points = [(0.5, 2.0), (0.8, 6.0)]
    assert closed_form(points, 0.5, 0.2, 3.0) > closed_form(points, 0.5, 0.1, 3.0) > 0
    assert closed_form(points, 0.6, 0.1, 3.0) > closed_form(points, 0.6, 0.1, 3.5)
