"""Rank correlations are those of SciPy and of brute force; intervals and shares say what resamples say."""

from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from predictors.agreement import Agreement, Ceiling, like_sized_groups, share_ahead

RNG = np.random.default_rng(0)
TRUTH = RNG.random(30)
NOISY = TRUTH + 0.3 * RNG.random(30)


@pytest.mark.parametrize("ties", [False, True])
def test_correlations_are_those_of_scipy(ties: bool) -> None:
    rating, truth = (NOISY.round(1), TRUTH.round(1)) if ties else (NOISY, TRUTH)
    found = Agreement.of(rating, truth)
    assert found.spearman.value == pytest.approx(stats.spearmanr(rating, truth).statistic)
    assert found.kendall.value == pytest.approx(stats.kendalltau(rating, truth).statistic)
    for estimate in (found.spearman, found.kendall):
        assert estimate.low < estimate.value < estimate.high


def test_interval_is_as_wide_as_other_samples_vary() -> None:
    rng = np.random.default_rng(1)
    found, held = [], 0
    for _ in range(40):
        truth = rng.standard_normal(40)
        estimate = Agreement.of(truth + rng.standard_normal(40), truth).spearman
        found.append(estimate.value)
        held += estimate.low <= 0.69 <= estimate.high  # rho of Gaussian pairs whose correlation is 0.71
    assert np.mean(found) == pytest.approx(0.69, abs=0.04)
    assert held >= 30


def test_within_groups_only_pairs_of_a_group_count() -> None:
    groups = np.repeat(np.arange(5), 6)
    found = Agreement.of(NOISY, TRUTH, groups)
    by_group = [stats.spearmanr(NOISY[groups == g], TRUTH[groups == g]).statistic for g in range(5)]
    # Without ties and with equal groups, centred ranks give the mean of the groups' correlations.
    assert found.spearman.value == pytest.approx(np.mean(by_group))
    pairs = [np.sign((NOISY[i] - NOISY[j]) * (TRUTH[i] - TRUTH[j]))
             for i, j in combinations(range(30), 2) if groups[i] == groups[j]]  # fmt: skip
    assert found.kendall.value == pytest.approx(np.mean(pairs))


def test_what_only_tells_groups_apart_is_worth_nothing_within_them() -> None:
    groups = like_sized_groups(list(TRUTH), 6)
    assert Agreement.of(groups, TRUTH).spearman.value > 0.9
    assert Agreement.of(groups, TRUTH, groups).spearman.value == 0


def test_infinite_and_constant_ratings() -> None:
    assert Agreement.of([-np.inf, -np.inf, 0, 1], [0, 1, 2, 3]).spearman.value > 0.9
    assert Agreement.of([1, 1, 1], [0, 1, 2]).spearman.text() == "+0.00 [+0.00, +0.00]"
    assert Agreement.of([], []).kendall.value == 0


def test_share_ahead() -> None:
    assert share_ahead(TRUTH, -TRUTH, TRUTH) == 1 and share_ahead(-TRUTH, TRUTH, TRUTH) == 0
    assert share_ahead(NOISY, NOISY, TRUTH) == 0.5
    equal = TRUTH + 0.3 * np.random.default_rng(5).random(30)
    assert 0.02 < share_ahead(NOISY, equal, TRUTH) < 0.98
    # Paired: a little worse everywhere is behind in nearly all resamples, although the intervals overlap.
    worse = NOISY.copy()
    worse[::3] = RNG.permutation(worse[::3])
    assert share_ahead(NOISY, worse, TRUTH) > 0.95


def test_ceiling() -> None:
    rng = np.random.default_rng(2)
    real = rng.standard_normal((4000, 1))
    accuracies = real + 0.5 * rng.standard_normal((4000, 3))
    accuracies = accuracies[:400]
    found = Ceiling.of(accuracies)
    assert found is not None and found.seeds == 3
    pairs = [stats.spearmanr(*pair).statistic for pair in combinations(accuracies.T, 2)]
    assert found.spearman == pytest.approx(np.mean(pairs))
    # Variances of 1 and of 0.25 / 3: what a perfect rating reaches is the correlation with the real values.
    assert found.reliability == pytest.approx(1 / (1 + 0.25 / 3), abs=0.02)
    reached = np.corrcoef(real[:400, 0], accuracies.mean(1))[0, 1]
    assert found.reliability**0.5 == pytest.approx(reached, abs=0.02)
    assert "Spearman-Brown 0.9" in found.text()
    assert Ceiling.of(accuracies[:, :1]) is None


def test_groups_are_like_sized_neighbours() -> None:
    labels = like_sized_groups([5.0, 1.0, 4.0, 2.0, 3.0, 0.0, 6.0], 3)
    assert labels.tolist() == [1, 0, 1, 0, 0, 0, 1]
    assert like_sized_groups([2.0, 1.0], 6).tolist() == [0, 0]
