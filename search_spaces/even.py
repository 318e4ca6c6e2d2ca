"""Which of many numbers are spread evenly."""

import numpy as np
from numpy.typing import ArrayLike


def nearest_to_even_steps(values: ArrayLike, count: int) -> list[int]:
    """Return which of ``values`` (n,) are nearest to ``count`` even steps from the lowest to the highest, each once.

    One step is the middle. Of fewer values than steps, all are returned.
    """
    numbers = np.asarray(values, float)
    low, high = numbers.min(), numbers.max()
    chosen: list[int] = []
    for aim in np.linspace(low, high, count) if count != 1 else [(low + high) / 2]:
        nearest = np.argsort(np.abs(numbers - aim), kind="stable")
        chosen += [int(i) for i in nearest if i not in chosen][:1]
    return sorted(chosen)
