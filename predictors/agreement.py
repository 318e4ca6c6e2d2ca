"""How well ratings order networks: rank correlations with intervals over the networks, and what limits them."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray

_RESAMPLES = 1000
_ENDS = (5, 95)
CLEARLY = 0.95
"""The share of resamples in which one rating has to order better than another, to be ahead beyond chance."""


@dataclass(frozen=True)
class Estimate:
    """A correlation and the ends of its 90 % bootstrap interval."""

    value: float
    low: float
    high: float

    def text(self) -> str:
        """Return the estimate in a few characters."""
        return f"{self.value:+.2f} [{self.low:+.2f}, {self.high:+.2f}]"


@dataclass(frozen=True)
class Agreement:
    """Rank correlations, Spearman's rho and Kendall's tau-b, of a rating with the truth."""

    spearman: Estimate
    kendall: Estimate

    @classmethod
    def of(cls, rating: ArrayLike, truth: ArrayLike, groups: ArrayLike | None = None) -> "Agreement":
        """Compare two values of each network (n,); higher is better in both. Equal inputs give equal intervals.

        With ``groups``, one label per network, only networks of the same group are compared: Spearman's rho is that of
        the ranks centred within each group, and tau-b counts the pairs of each group. A mean of correlations per group
        would weigh small groups, whose correlations are mostly noise, like large ones.
        """
        one, other = _signs(rating, groups), _signs(truth, groups)
        found = _correlations(one, other)
        resampled = [_correlations(_taken(one, rows), _taken(other, rows)) for rows in _resamples(len(one))]
        low, high = np.percentile(resampled, _ENDS, axis=0)
        return cls(*(Estimate(*map(float, each)) for each in zip(found, low, high, strict=True)))


def share_ahead(first: ArrayLike, second: ArrayLike, truth: ArrayLike) -> float:
    """Return the share of bootstrap resamples of the networks in which ``first`` has the higher rho with ``truth``.

    Both rate the same networks (n,), and a lucky sample helps both: the two intervals may overlap by far although one
    is ahead in every resample. Draws count by half.
    """
    ratings, real = [_signs(first), _signs(second)], _signs(truth)
    gaps = []
    for rows in _resamples(len(real)):
        one, other = (_correlations(_taken(rating, rows), _taken(real, rows))[0] for rating in ratings)
        gaps.append(one - other)
    return float(np.mean(np.sign(gaps)) / 2 + 0.5)


def _resamples(count: int) -> Iterator[NDArray]:
    rng = np.random.default_rng(0)
    return (rng.integers(max(1, count), size=count) for _ in range(_RESAMPLES))


def _signs(values: ArrayLike, groups: ArrayLike | None = None) -> NDArray:
    """Return the sign of the difference of each pair (n, n), 0 for pairs of different groups."""
    x = np.asarray(values, float)
    found = (x[:, None] > x).astype(int) - (x[:, None] < x)
    if groups is None:
        return found
    labels = np.asarray(groups)
    return np.where(labels[:, None] == labels, found, 0)


def _taken(signs: NDArray, rows: NDArray) -> NDArray:
    return signs[np.ix_(rows, rows)]


def _correlations(one: NDArray, other: NDArray) -> tuple[float, float]:
    """Return rho and tau-b from the signs of all pairs; 0 where one side is constant.

    The sum of a row is twice the rank of its network, less the mean rank of its group.
    """
    return _cosine(one.sum(1), other.sum(1)), _cosine(one.ravel(), other.ravel())


def _cosine(one: NDArray, other: NDArray) -> float:
    length = math.sqrt(float(one @ one) * float(other @ other))
    return float(one @ other) / length if length else 0.0


@dataclass(frozen=True)
class Ceiling:
    """How far trainings with different seeds agree, which limits what any rating can reach.

    ``spearman`` and ``kendall`` are means over pairs of ``seeds``; ``reliability`` is that of the mean over all seeds,
    and its root the largest correlation to be expected of a perfect rating.
    """

    seeds: int
    spearman: float
    kendall: float
    reliability: float

    @classmethod
    def of(cls, accuracies: NDArray) -> "Ceiling | None":
        """Compare the columns of ``accuracies`` (networks, seeds); None for a single seed.

        The reliability of ranks follows from Spearman's rho between seeds (Spearman, 1910; Brown, 1910). The linear
        correlation would mislead: a few networks that learn little make it high, whatever the order of the rest.
        """
        seeds = accuracies.shape[1]
        pairs = list(combinations(accuracies.T, 2))
        if not pairs:
            return None
        rho, tau = np.mean([_correlations(_signs(one), _signs(other)) for one, other in pairs], axis=0)
        known = max(0.0, float(rho))
        return cls(seeds, float(rho), float(tau), seeds * known / (1 + (seeds - 1) * known))

    def text(self) -> str:
        """Return the ceiling in one line."""
        return (
            f"between two seeds: Spearman {self.spearman:+.2f}, Kendall {self.kendall:+.2f}; reliability of the mean "
            f"of {self.seeds} by Spearman-Brown {self.reliability:.2f}, so that a perfect rating would reach about "
            f"{math.sqrt(self.reliability):.2f}"
        )


def like_sized_groups(values: Sequence[float], least: int) -> NDArray:
    """Return a label per value (n,): groups of neighbours, equally large, of ``least`` or more if there are as many."""
    order = np.argsort(values, kind="stable")
    labels = np.empty(len(order), int)
    for label, part in enumerate(np.array_split(order, max(1, len(order) // least))):
        labels[part] = label
    return labels
