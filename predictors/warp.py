"""Accuracies made Gaussian by their ranks: they are skewed, and a Gaussian process expects that they are not."""

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, rankdata

# The slope beyond the observations is that of the outer fifth of them.
_TAIL = 5


class RankWarp:
    """Map observed values to the normal quantiles of their ranks, and any such number back.

    Between observations the map back is linear, beyond them it goes on with the slope of the outer fifth.

    ``knots`` are the distinct numbers of the observations in rising order, ``above`` the slope beyond the last.

    Args:
        y: observed values (n,), of which equal ones share a rank.
    """

    def __init__(self, y: NDArray) -> None:
        self.z = norm.ppf((rankdata(y) - 0.5) / len(y))
        self.knots, first = np.unique(self.z, return_index=True)
        self._values = np.asarray(y, float)[first]
        self._below, self.above = 0.0, 0.0
        if len(first) > 1:
            reach = max(1, len(first) // _TAIL)
            self._below = float(np.ptp(self._values[: reach + 1]) / np.ptp(self.knots[: reach + 1]))
            self.above = float(np.ptp(self._values[-1 - reach :]) / np.ptp(self.knots[-1 - reach :]))

    def back(self, z: NDArray) -> NDArray:
        """Return the values that ``z`` stands for."""
        below, above = np.minimum(z - self.knots[0], 0), np.maximum(z - self.knots[-1], 0)
        return np.asarray(np.interp(z, self.knots, self._values) + self._below * below + self.above * above)

    def there(self, y: NDArray) -> NDArray:
        """Return the numbers that values stand at; where nothing lies beyond, those stand at the outermost."""
        low, high = self._values[0], self._values[-1]
        below = np.minimum(y - low, 0) / self._below if self._below else 0.0
        above = np.maximum(y - high, 0) / self.above if self.above else 0.0
        return np.asarray(np.interp(y, self._values, self.knots) + below + above)
