"""Fronts and hypervolumes of (accuracy, ms) against all pairs, known values and counting cells."""

import itertools

import numpy as np
import pytest

from nas.search.pareto import front_levels, hypervolume, non_dominated

Points = list[tuple[float, float]]


def beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one[0] >= other[0] and one[1] <= other[1] and one != other


def brute_force(points: Points) -> list[bool]:
    return [not any(beats(q, p) for q in points) and p not in points[:i] for i, p in enumerate(points)]


def grid_points(rng: np.random.Generator, side: int = 6) -> Points:
    """Return up to 19 points with whole coordinates: many ties and equal points."""
    count = int(rng.integers(0, 20))
    return [(float(a), float(ms)) for a, ms in rng.integers(0, side, (count, 2))]


@pytest.mark.parametrize("seed", range(100))
def test_non_dominated_against_all_pairs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = grid_points(rng)
    assert non_dominated(points) == brute_force(points)
    smooth = [(float(a), float(ms)) for a, ms in rng.normal(size=(15, 2))]
    assert non_dominated(smooth) == brute_force(smooth)


def test_non_dominated_by_hand() -> None:
    points = [(0.5, 2.0), (0.7, 3.0), (0.5, 2.0), (0.6, 3.0), (0.7, 3.5), (0.4, 1.0), (0.5, 2.5)]
    assert non_dominated(points) == [True, True, False, False, False, True, False]
    assert non_dominated([]) == []


@pytest.mark.parametrize(
    ("minimised", "volume"),
    [
        ([(0.5, 0.5)], 0.25),
        ([(0.2, 0.6), (0.6, 0.2)], 0.48),
        ([(0.2, 0.6), (0.6, 0.2), (0.7, 0.7)], 0.48),
        ([(0.2, 0.6), (0.6, 0.2), (0.2, 0.6)], 0.48),
        ([(0.5, 0.5), (1.5, 0.1), (0.1, 1.5)], 0.25),
        ([(1.0, 0.0), (0.0, 1.0)], 0.0),
        ([(0.0, 0.0)], 1.0),
        ([], 0.0),
    ],
)
def test_known_hypervolumes(minimised: Points, volume: float) -> None:
    # Both objectives minimised, reference (1, 1); accuracy is one minus the first.
    points = [(1 - error, ms) for error, ms in minimised]
    for order in itertools.permutations(points):
        assert hypervolume(list(order), 0.0, 1.0) == pytest.approx(volume, abs=1e-12)


def test_hypervolume_with_another_floor_and_ceiling() -> None:
    points = [(0.8, 2.0), (0.9, 5.0), (0.3, 1.0)]
    assert hypervolume(points, 0.5, 10.0) == pytest.approx(0.3 * 3 + 0.4 * 5)
    assert hypervolume(points, 0.5, 5.0) == pytest.approx(0.3 * 3)
    assert hypervolume(points, 0.5, 4.0) == pytest.approx(0.3 * 2)
    assert hypervolume(points, 0.5, 2.0) == hypervolume(points, 0.5, 0.5) == 0
    assert hypervolume(points, 0.95, 10.0) == 0


@pytest.mark.parametrize("seed", range(60))
def test_hypervolume_is_the_number_of_dominated_cells(seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = grid_points(rng)
    floor, ceiling = (int(value) for value in rng.integers(0, 7, 2))
    cells = [
        (a, ms)
        for a, ms in itertools.product(range(floor, 7), range(0, ceiling))
        if any(accuracy >= a + 1 and milliseconds <= ms for accuracy, milliseconds in points)
    ]
    assert hypervolume(points, floor, ceiling) == len(cells)


def test_hypervolume_against_random_darts() -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(0, 1, (8, 2)) * [1, 10]
    darts = rng.uniform(0, 1, (200_000, 2)) * [0.8, 10] + [0.2, 0]
    hit = ((points[:, 0] >= darts[:, :1]) & (points[:, 1] <= darts[:, 1:])).any(axis=1)
    pairs = [(float(a), float(ms)) for a, ms in points]
    assert hypervolume(pairs, 0.2, 10.0) == pytest.approx(8 * hit.mean(), abs=0.04)


def test_front_levels() -> None:
    points = [(0.9, 5.0), (0.3, 1.0), (0.8, 2.0), (0.7, 4.0), (0.5, 1.5)]
    steps_ms, levels = front_levels(points, 0.5)
    assert steps_ms.tolist() == [-np.inf, 2, 5]
    assert levels.tolist() == [0.5, 0.8, 0.9]
    for empty in ([], [(0.5, 1.0)]):
        steps_ms, levels = front_levels(empty, 0.5)
        assert (steps_ms.tolist(), levels.tolist()) == ([-np.inf], [0.5])


@pytest.mark.parametrize("seed", range(30))
def test_staircase_is_the_best_accuracy_within_a_latency(seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = grid_points(rng)
    steps_ms, levels = front_levels(points, 2.0)
    assert (np.diff(steps_ms) > 0).all() and (np.diff(levels) > 0).all()
    for ms in np.arange(-1, 7, 0.5):
        best = max([2.0, *[accuracy for accuracy, milliseconds in points if milliseconds <= ms]])
        assert levels[np.searchsorted(steps_ms, ms, side="right") - 1] == best
