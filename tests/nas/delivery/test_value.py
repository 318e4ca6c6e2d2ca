"""What fronts are worth, by hand calculation: to a user with a limit, over all limits, as an area, and side by side."""

import math
import random

import pytest

from nas.delivery.value import (
    Comparison,
    Point,
    accuracy_within,
    compare,
    delivered,
    front_accuracy,
    hypervolume_share,
)

# By validation the third is worse than the second, although it tests best: nobody gets it.
POINTS = [Point(1, 0.60, 0.58), Point(2, 0.80, 0.76), Point(3, 0.79, 0.99), Point(4, 0.90, 0.88)]
FAMILY = [Point(1, 0.50, 0.50), Point(4, 0.90, 0.90)]


def test_users_get_the_best_by_validation_within_their_limit() -> None:
    limits = {0.5: 0.1, 1: 0.58, 1.9: 0.58, 2: 0.76, 3.5: 0.76, 4: 0.88, 100: 0.88}
    assert {limit: accuracy_within(POINTS, limit, 0.1) for limit in limits} == limits
    assert delivered(POINTS) == [POINTS[0], POINTS[1], POINTS[3]]
    assert delivered([]) == [] and accuracy_within([], 1, 0.25) == 0.25


def test_front_accuracy_is_a_mean_over_log_latency() -> None:
    # A doubling at .58, a doubling at .76, a doubling at .88; before the first network, .1 is counted.
    assert front_accuracy(POINTS, 1, 8, 0.1) == pytest.approx((0.58 + 0.76 + 0.88) / 3)
    assert front_accuracy(POINTS, 0.5, 2, 0.1) == pytest.approx((0.1 + 0.58) / 2)
    assert front_accuracy(POINTS, 2, 2, 0.1) == 0.76
    assert front_accuracy([], 1, 2, 0.1) == pytest.approx(0.1)


def test_front_accuracy_agrees_with_many_limits() -> None:
    rng = random.Random(0)
    points = [Point(rng.uniform(1, 9), rng.random(), rng.random()) for _ in range(12)]
    for low, high in ((0.5, 20), (2, 7), (8.9, 9.5)):
        limits = [low * (high / low) ** ((i + 0.5) / 20000) for i in range(20000)]
        mean = sum(accuracy_within(points, limit, 0.3) for limit in limits) / len(limits)
        assert front_accuracy(points, low, high, 0.3) == pytest.approx(mean, abs=1e-3)


def test_hypervolume_is_a_share_of_the_box() -> None:
    # From 1 to 5 ms and from .5 to 1: (.58 - .5) * 1 + (.76 - .5) * 2 + (.88 - .5) * 1 of 4 * .5.
    assert hypervolume_share(POINTS, 1, 5, 0.5) == pytest.approx((0.08 + 0.52 + 0.38) / 2)
    # What is faster than the box counts from its edge on.
    assert hypervolume_share(POINTS, 2, 5, 0.5) == pytest.approx((0.26 * 2 + 0.38) / 1.5)
    assert hypervolume_share([Point(1, 1, 1)], 1, 2, 0.1) == pytest.approx(1)
    assert hypervolume_share([], 1, 2, 0.1) == 0


def test_comparison_by_hand() -> None:
    found = compare("the search", POINTS, FAMILY, chance=0.1, test_images=10_000)
    assert found is not None
    assert (found.networks, found.family, found.low_ms, found.high_ms) == (4, 2, 1, 4)
    assert found.accuracy == pytest.approx((0.58 + 0.76) / 2) and found.family_accuracy == pytest.approx(0.5)
    assert found.error == pytest.approx(math.sqrt((0.67 * 0.33 + 0.5 * 0.5) / 10_000))
    box = 0.9 * 3.2
    assert found.hypervolume == pytest.approx((0.48 + 0.66 * 2 + 0.78 * 0.2) / box)
    assert found.family_hypervolume == pytest.approx((0.4 * 3 + 0.8 * 0.2) / box)
    assert Comparison.model_validate(found.model_dump()) == found


def test_where_both_have_a_network_counts() -> None:
    late = [Point(2, 0.7, 0.7)]
    found = compare("the search", late, FAMILY, 0.1, 100)
    assert found is not None and (found.low_ms, found.high_ms) == (2, 4)
    assert (found.accuracy, found.family_accuracy) == (pytest.approx(0.7), pytest.approx(0.5))
    alone = compare("the search", late, [Point(1, 0.6, 0.6)], 0.1, 100)
    assert alone is not None and (alone.low_ms, alone.high_ms) == (2, 2)
    assert (alone.accuracy, alone.family_accuracy) == (0.7, 0.6)


def test_nothing_to_compare() -> None:
    assert compare("the search", [], FAMILY, 0.1, 100) is None
    assert compare("the search", POINTS, [], 0.1, 100) is None


@pytest.mark.parametrize(
    ("test_images", "theirs", "said"),
    [
        (10_000, FAMILY, "the search beat the hand-made family by 17.0 points (front accuracy over 1-4 ms: 67.00 "
         "against 50.00 %; +-1.4 points from"),
        (10_000, [Point(1, 0.9, 0.9)], "the hand-made family beat the search by 23.0 points ("),
        (20, FAMILY, "no difference beyond noise: the search is 17.0 points above the hand-made family ("),
        (10_000, [Point(4, 0.9, 0.9)], "the hand-made family beat the search by 2.0 points (at a limit of 4 ms, "
         "below which one of them has none: 88.00 against 90.00 %;"),
        (20, [Point(1, 0.7, 0.7)], "no difference beyond noise: the search is 3.0 points below the hand-made family ("),
    ],
)  # fmt: skip
def test_sentence(test_images: int, theirs: list[Point], said: str) -> None:
    found = compare("the search", POINTS, theirs, 0.1, test_images)
    assert found is not None and found.sentence().startswith(said)
    assert found.lines()["result"] == found.sentence()
