"""From blocks measured alone to whole networks: what a network does not pay, and what it pays on top.

A block alone pays for a session and for its borders: input and output travel between the caller's layout and that of
the kernels. In a network a session is paid once, and a border where neighbours differ in layout. Those shares differ
from device to device; a few whole networks tell them.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict

TERMS = ("slope", "networks", "blocks", "switches")


class Features(BaseModel):
    """What a network's latency is made of.

    ``core_ms`` is the sum of the blocks' latencies without sessions and borders, ``blocks`` their number, and
    ``switch_ms`` the cost of the borders at which neighbouring blocks differ in layout.
    """

    model_config = ConfigDict(frozen=True)

    core_ms: float
    blocks: int
    switch_ms: float


class Calibration(BaseModel):
    """``ms = slope * core_ms + offset_ms + block_ms * blocks + switch_share * switch_ms``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    slope: float
    offset_ms: float
    block_ms: float
    switch_share: float

    def predict_ms(self, features: Features) -> float:
        """Return the latency (ms) of a network."""
        return float(self.predict_many_ms(features.core_ms, features.blocks, features.switch_ms))

    def predict_many_ms(self, core_ms: ArrayLike, blocks: ArrayLike, switch_ms: ArrayLike) -> NDArray:
        """Return the latency (ms) of each network; see ``Features``."""
        return (
            self.slope * np.asarray(core_ms)
            + self.offset_ms
            + self.block_ms * np.asarray(blocks)
            + self.switch_share * np.asarray(switch_ms)
        )

    @classmethod
    def fit(cls, features: Sequence[Features], measured_ms: Sequence[float]) -> "Calibration":
        """Fit the four numbers to whole networks: least squares of the relative error, held near what physics expects.

        A posterior mean of Bayesian linear regression (Bishop, Pattern Recognition and Machine Learning, 3.3), so
        that ten networks suffice: measurements are trusted to ``_NOISE``, blocks alone to be right up to ``_SPREAD``.
        """
        # Terms in units of a typical block, so that the prior holds for microseconds and for seconds alike.
        block_ms = float(np.mean([f.core_ms / f.blocks for f in features]))
        rows = np.array([[f.core_ms, 3 * block_ms, block_ms * f.blocks, f.switch_ms] for f in features])
        measured = np.asarray(measured_ms)
        weights = 1 / (_NOISE * measured)
        design = rows * weights[:, None] * _SPREAD
        residual = (measured - rows @ _EXPECTED) * weights
        found = _EXPECTED + _SPREAD * np.linalg.solve(design.T @ design + np.eye(4), design.T @ residual)
        return cls(
            slope=float(found[0]),
            offset_ms=float(3 * block_ms * found[1]),
            block_ms=float(block_ms * found[2]),
            switch_share=float(found[3]),
        )


# One inference of a network is measured to about one percent.
_NOISE = 0.012
# Slope, offset, overhead per block, share of a border at a switch of layouts: expected, and give or take.
_EXPECTED = np.array([1.0, 0.0, 0.0, 0.4])
_SPREAD = np.array([0.15, 1.0, 0.2, 0.3])


def cross_predicted(features: Sequence[Features], measured_ms: Sequence[float]) -> NDArray:
    """Return for each network what a calibration on all the others predicts for it (ms)."""
    return np.array(
        [
            Calibration.fit(
                [f for j, f in enumerate(features) if j != i], [m for j, m in enumerate(measured_ms) if j != i]
            ).predict_ms(features[i])
            for i in range(len(features))
        ]
    )
