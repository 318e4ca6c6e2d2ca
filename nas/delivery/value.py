"""What a front is worth to somebody with a latency limit, and a search's networks beside the hand-made family's."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

from nas.search.pareto import hypervolume, non_dominated

# Differences of fewer standard errors than this are not called any.
_ERRORS = 2.0
# The hypervolume's box ends a little beyond the slowest network, so that this one counts too.
_BEYOND = 1.05


class Point(NamedTuple):
    """A trained network: latency (ms), accuracies in [0, 1]."""

    ms: float
    val_accuracy: float
    test_accuracy: float


def delivered(points: Sequence[Point]) -> list[Point]:
    """Return the front by validation accuracy, by rising latency: test accuracies decide nothing."""
    keep = non_dominated([(point.val_accuracy, point.ms) for point in points])
    return sorted((point for point, kept in zip(points, keep, strict=True) if kept), key=lambda point: point.ms)


def accuracy_within(points: Sequence[Point], limit_ms: float, missing: float) -> float:
    """Return the test accuracy of the network that a user with a limit gets: the best by validation within it.

    ``missing`` is what counts where there is none.
    """
    within = [point for point in delivered(points) if point.ms <= limit_ms]
    return within[-1].test_accuracy if within else missing


def front_accuracy(points: Sequence[Point], low_ms: float, high_ms: float, missing: float) -> float:
    """Return the mean of ``accuracy_within`` over all limits from ``low_ms`` to ``high_ms``, even in log latency."""
    if low_ms == high_ms:
        return accuracy_within(points, low_ms, missing)
    # Between two of these limits a user gets the same network.
    limits = [low_ms, *(point.ms for point in delivered(points) if low_ms < point.ms < high_ms), high_ms]
    parts = [accuracy_within(points, a, missing) * math.log(b / a) for a, b in pairwise(limits)]
    return sum(parts) / math.log(high_ms / low_ms)


def hypervolume_share(points: Sequence[Point], low_ms: float, high_ms: float, floor: float) -> float:
    """Return the share of a box that the delivered networks dominate by their test accuracy.

    The box spans latencies from ``low_ms`` to ``high_ms`` and accuracies from ``floor`` to 1.
    """
    corners = [(point.test_accuracy, max(point.ms, low_ms)) for point in delivered(points)]
    return hypervolume(corners, floor, high_ms) / ((high_ms - low_ms) * (1 - floor))


class Comparison(BaseModel):
    """A search's own networks beside the hand-made family's, trained alike and measured together on one device.

    ``networks`` and ``family`` count them, ``way`` says how the networks were found. Front accuracies (fractions) are
    means over the limits from ``low_ms`` to ``high_ms``, where both have a network. Hypervolumes are shares of the box
    from the fastest network of both to 5 % beyond the slowest, above chance. ``error`` is the standard error of the
    difference of front accuracies, from the number of test images alone.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    way: str
    networks: int
    family: int
    low_ms: float
    high_ms: float
    accuracy: float
    family_accuracy: float
    hypervolume: float
    family_hypervolume: float
    error: float

    def sentence(self) -> str:
        """Say by how much the search beat the family, or did not."""
        points = 100 * (self.accuracy - self.family_accuracy)
        over = f"front accuracy over {self.low_ms:.3g}-{self.high_ms:.3g} ms"
        alone = f"at a limit of {self.high_ms:.3g} ms, below which one of them has none"
        what = over if self.low_ms < self.high_ms else alone
        numbers = f"{what}: {100 * self.accuracy:.2f} against {100 * self.family_accuracy:.2f} %"
        noise = f"+-{100 * _ERRORS * self.error:.1f} points from the number of test images alone"
        if abs(points) <= 100 * _ERRORS * self.error:
            side = "above" if points >= 0 else "below"
            told = f"no difference beyond noise: {self.way} is {abs(points):.1f} points {side} the hand-made family"
        elif points > 0:
            told = f"{self.way} beat the hand-made family by {points:.1f} points"
        else:
            told = f"the hand-made family beat {self.way} by {-points:.1f} points"
        return f"{told} ({numbers}; {noise})"

    def lines(self) -> dict[str, str]:
        """Return the comparison as label and text."""
        return {
            "result": self.sentence(),
            f"networks of {self.way}, of the family": f"{self.networks}, {self.family}",
            "hypervolume of their test accuracies": f"{100 * self.hypervolume:.1f}, "
            f"{100 * self.family_hypervolume:.1f} % of the box above chance",
        }


def compare(
    way: str, networks: Sequence[Point], family: Sequence[Point], chance: float, test_images: int
) -> Comparison | None:
    """Compare networks with the hand-made family's; None where there is nothing of either.

    Args:
        way: how ``networks`` were found, as in "the search".
        networks: those within the budget.
        family: those within the budget.
        chance: the accuracy of guessing.
        test_images: how many images the test accuracies are shares of.
    """
    if not networks or not family:
        return None
    every = [point.ms for point in (*networks, *family)]
    low = max(min(point.ms for point in networks), min(point.ms for point in family))
    ours, theirs = (front_accuracy(points, low, max(every), chance) for points in (networks, family))
    ends = min(every), _BEYOND * max(every)
    # As if the two had been tested on images of their own: on the same ones they differ by less, but trainings with
    # another seed would differ as well.
    error = math.sqrt(sum(share * (1 - share) for share in (ours, theirs)) / test_images)
    return Comparison(
        way=way, networks=len(networks), family=len(family), low_ms=low, high_ms=max(every), accuracy=ours,
        family_accuracy=theirs, hypervolume=hypervolume_share(networks, *ends, chance),
        family_hypervolume=hypervolume_share(family, *ends, chance), error=error,
    )  # fmt: skip
