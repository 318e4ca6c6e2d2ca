"""From blocks measured alone to whole networks: what a network does not pay, and what it pays on top.

A block alone pays for a session and for its borders: input and output travel between the caller's layout and that of
the kernels. In a network a session is paid once, and a border where neighbours differ in layout. Those shares differ
from device to device; a few whole networks tell them.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict


class Share(NamedTuple):
    """The part of one kind of blocks in a network: the sum of its blocks' latencies (ms), and their number."""

    core_ms: float
    blocks: int


class Features(BaseModel):
    """What a network's latency is made of.

    ``core_ms`` is the sum of the blocks' latencies without sessions and borders, ``blocks`` their number, and
    ``switch_ms`` the cost of the borders at which neighbouring blocks differ in layout. Where a space has no end of
    blocks, ``core_ms`` is that of steady state, ``millions`` are the weights that a cold call has to read, and
    ``kinds`` tells the first two by kind of block: these are calibrated apart.
    """

    model_config = ConfigDict(frozen=True)

    core_ms: float
    blocks: int
    switch_ms: float
    millions: float = 0.0
    kinds: Mapping[str, Share] = {}


class KindTerm(BaseModel):
    """What a kind of blocks adds to what holds for all: per ms of its core, per block, and where it is there at all."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    slope: float
    block_ms: float
    first_ms: float

    def predict_ms(self, share: Share) -> float:
        """Return what the kind adds (ms)."""
        return self.slope * share.core_ms + self.block_ms * share.blocks + self.first_ms


class Calibration(BaseModel):
    """``ms = slope * core_ms + offset_ms + block_ms * blocks + switch_share * switch_ms``.

    Where kinds of blocks are calibrated apart, their terms come on top, and ``million_ms`` for each million weights.
    Networks of which these make less than ``least_ms``, half of the fastest that was measured, are said to take that.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    slope: float
    offset_ms: float
    block_ms: float
    switch_share: float
    million_ms: float = 0.0
    kinds: dict[str, KindTerm] = {}
    least_ms: float = 0.0

    def predict_ms(self, features: Features) -> float:
        """Return the latency (ms) of a network."""
        common_ms = float(self.predict_many_ms(features.core_ms, features.blocks, features.switch_ms))
        if not self.kinds:
            return common_ms
        shares = [(self.kinds[name], share) for name, share in features.kinds.items() if name in self.kinds]
        added_ms = self.million_ms * features.millions + sum(term.predict_ms(share) for term, share in shares)
        return max(self.least_ms, common_ms + added_ms)

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
        Features by kind are fitted in the same way, each kind's around what holds for all of them.
        """
        names = sorted({name for f in features for name in f.kinds})
        if names:
            return cls._fit_kinds(features, np.asarray(measured_ms), names)
        # Terms in units of a typical block, so that the prior holds for microseconds and for seconds alike.
        block_ms = float(np.mean([f.core_ms / f.blocks for f in features]))
        rows = np.array([[f.core_ms, 3 * block_ms, block_ms * f.blocks, f.switch_ms] for f in features])
        slope, offset, each, switch = _posterior_mean(rows, np.asarray(measured_ms), _NOISE, _EXPECTED, _SPREAD)
        return cls(
            slope=float(slope), offset_ms=float(3 * block_ms * offset), block_ms=float(block_ms * each),
            switch_share=float(switch),
        )  # fmt: skip

    @classmethod
    def _fit_kinds(cls, features: Sequence[Features], measured_ms: NDArray, names: Sequence[str]) -> "Calibration":
        block_ms = float(np.median([f.core_ms / f.blocks for f in features]))
        # Of weights nothing is known but that they take no more than everything does.
        million_ms = float(np.mean(measured_ms) / max(np.mean([f.millions for f in features]), 1e-9))
        rows = []
        for f in features:
            shares = [f.kinds.get(name, Share(0.0, 0)) for name in names]
            terms = [(core_ms, block_ms * blocks, block_ms * (blocks > 0)) for core_ms, blocks in shares]
            common = (f.core_ms, block_ms, block_ms * f.blocks, million_ms * f.millions)
            rows.append([*common, *(value for term in terms for value in term)])
        expected = np.concatenate([_KINDS_EXPECTED, np.zeros(3 * len(names))])
        spread = np.concatenate([_KINDS_SPREAD, np.tile(_KIND_SPREAD, len(names))])
        found = _posterior_mean(np.array(rows), measured_ms, _KINDS_NOISE, expected, spread)
        slope, offset, each, million = found[:4]
        of_kinds = found[4:].reshape(-1, 3) * [1, block_ms, block_ms]
        kinds = {
            name: KindTerm(slope=its_slope, block_ms=its_block_ms, first_ms=first_ms)
            for name, (its_slope, its_block_ms, first_ms) in zip(names, of_kinds, strict=True)
        }
        return cls(
            slope=float(slope), offset_ms=float(block_ms * offset), block_ms=float(block_ms * each), switch_share=0.0,
            million_ms=float(million_ms * million), kinds=kinds, least_ms=float(min(measured_ms)) / 2,
        )  # fmt: skip


def _posterior_mean(rows: NDArray, measured_ms: NDArray, noise: float, expected: NDArray, spread: NDArray) -> NDArray:
    """Return the factors of the columns of ``rows``, by relative error ``noise`` and their prior."""
    weights = 1 / (noise * measured_ms)
    design = rows * weights[:, None] * spread
    residual = (measured_ms - rows @ expected) * weights
    return np.asarray(
        expected + spread * np.linalg.solve(design.T @ design + np.eye(len(expected)), design.T @ residual)
    )


# One inference of a network is measured to about one percent.
_NOISE = 0.012
# Slope, offset, overhead per block, share of a border at a switch of layouts: expected, and give or take.
_EXPECTED = np.array([1.0, 0.0, 0.0, 0.4])
_SPREAD = np.array([0.15, 1.0, 0.2, 0.3])
# Where blocks are predicted, no calibration is as exact as a measurement.
_KINDS_NOISE = 0.1
# Slope, offset, overhead per block, weights: expected, and give or take.
_KINDS_EXPECTED = np.array([1.0, 0.0, 0.0, 0.0])
_KINDS_SPREAD = np.array([0.2, 10.0, 0.5, 1.0])
# A kind's slope, overhead per block, and cost of being there at all, give or take.
_KIND_SPREAD = np.array([0.2, 0.25, 1.0])


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
