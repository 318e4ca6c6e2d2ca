"""Expected hypervolume improvement where latency is known and accuracy is not.

With latency known the expectation has a closed form: over each segment of the front that a candidate is fast
enough to improve, the segment's width times the one-dimensional expected improvement over its level (the
two-dimensional case of Emmerich et al., CEC 2011, with one objective deterministic).
"""

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm


def expected_improvement(mean: NDArray, std: NDArray, level: NDArray) -> NDArray:
    """Return E[max(0, accuracy - level)] for accuracy ~ N(mean, std), element by element."""
    z = (mean - level) / std
    return (mean - level) * norm.cdf(z) + std * norm.pdf(z)


def expected_hypervolume_improvement(
    mean: NDArray, std: NDArray, ms: NDArray, steps_ms: NDArray, levels: NDArray, ceiling_ms: float
) -> NDArray:
    """Return the expected gain in hypervolume (accuracy x ms) of each candidate.

    Args:
        mean: predicted accuracy (n,).
        std: its standard deviation (n,), positive.
        ms: known latency (n,).
        steps_ms: latencies at which the front steps up (k,), from ``pareto.front_levels``.
        levels: the front's accuracy from each step on (k,).
        ceiling_ms: where the hypervolume ends.
    """
    edges = np.append(steps_ms, ceiling_ms)
    left = np.maximum(np.minimum(edges[:-1], ceiling_ms), ms[:, None])
    widths = np.maximum(np.minimum(edges[1:], ceiling_ms) - left, 0.0)
    gains = expected_improvement(mean[:, None], std[:, None], levels[None, :])
    return (widths * gains).sum(axis=1)
