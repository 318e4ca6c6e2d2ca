"""Expected hypervolume improvement where latency is known and accuracy is not.

With latency known the expectation has a closed form: over each segment of the front that a candidate is fast
enough to improve, the segment's width times the one-dimensional expected improvement over its level (the
two-dimensional case of Emmerich et al., CEC 2011, with one objective deterministic). Accuracy is Gaussian after
a piecewise linear map, over whose pieces the one-dimensional expectation is a sum of Gaussian ones. Latency enters as
it is: in its logarithm, networks that carry no signal and take next to no time would outweigh all others.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from predictors.warp import RankWarp

# Pieces of the map beside those at the levels; the error of the expectation is below a percent of it.
_PIECES = 64


def expected_improvement(mean: NDArray, std: NDArray, level: NDArray) -> NDArray:
    """Return E[max(0, z - level)] for z ~ N(mean, std), element by element."""
    z = (mean - level) / std
    return (mean - level) * ndtr(z) + std * np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi)


def warped_improvement(mean: NDArray, std: NDArray, warp: RankWarp, levels: NDArray) -> NDArray:
    """Return E[max(0, warp.back(z) - level)] for z ~ N(mean, std), (n, k).

    Args:
        mean: of each candidate in the space of ranks (n,).
        std: its standard deviation (n,), positive.
        warp: the map between ranks and accuracies.
        levels: accuracies (k,).
    """
    at = warp.there(levels)
    knots = np.unique(np.concatenate([at, warp.knots[:: -(-len(warp.knots) // _PIECES)], warp.knots[-1:]]))
    slopes = np.append(np.diff(warp.back(knots)) / np.diff(knots), warp.above)
    beyond = expected_improvement(mean[:, None], std[:, None], knots)
    pieces = slopes * (beyond - np.append(beyond[:, 1:], np.zeros((len(mean), 1)), axis=1))
    above = np.cumsum(pieces[:, ::-1], axis=1)[:, ::-1]
    return above[:, np.searchsorted(knots, at)]


def expected_hypervolume_improvement(
    improvement: NDArray, ms: NDArray, steps_ms: NDArray, ceiling_ms: float
) -> NDArray:
    """Return the expected gain in hypervolume (accuracy x ms) of each candidate.

    Args:
        improvement: expected improvement of each candidate over the front's accuracy from each step on (n, k).
        ms: known latency (n,).
        steps_ms: latencies at which the front steps up (k,), from ``pareto.front_levels``.
        ceiling_ms: where the hypervolume ends.
    """
    edges = np.append(steps_ms, ceiling_ms)
    left = np.maximum(np.minimum(edges[:-1], ceiling_ms), ms[:, None])
    widths = np.maximum(np.minimum(edges[1:], ceiling_ms) - left, 0.0)
    return (widths * improvement).sum(axis=1)
