"""Pareto fronts of (accuracy, latency): accuracy is maximised, latency in ms minimised."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def non_dominated(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Tell for each (accuracy, ms) whether no other point is at least as good in both and better in one.

    Of several equal points the first is kept, so that a front names each trade-off once.
    """
    order = sorted(range(len(points)), key=lambda i: (points[i][1], -points[i][0], i))
    keep = [False] * len(points)
    best = -np.inf
    for i in order:
        if points[i][0] > best:
            keep[i] = True
            best = points[i][0]
    return keep


def front_levels(points: Sequence[tuple[float, float]], floor: float) -> tuple[NDArray, NDArray]:
    """Return the front as a staircase: latencies where it steps (ms, rising), and the accuracy from there on.

    The staircase starts with ``floor`` at minus infinity; points at or below ``floor`` do not step.
    """
    steps = [p for p, kept in zip(points, non_dominated(points), strict=True) if kept and p[0] > floor]
    steps.sort(key=lambda p: p[1])
    return (
        np.array([-np.inf, *[ms for _, ms in steps]]),
        np.array([floor, *[accuracy for accuracy, _ in steps]]),
    )


def hypervolume(points: Sequence[tuple[float, float]], floor: float, ceiling_ms: float) -> float:
    """Return the area (accuracy x ms) that the points dominate above ``floor`` and below ``ceiling_ms``."""
    steps_ms, levels = front_levels(points, floor)
    edges = np.minimum(np.append(steps_ms[1:], ceiling_ms), ceiling_ms)
    return float(np.sum(np.diff(edges) * (levels[1:] - floor)))
