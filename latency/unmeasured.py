"""What blocks take that were not measured, for spaces with no end of them: predicted from the rows of a table.

Each operator starts from a roofline-like cost (Williams et al., CACM 2009): a fixed part, and factors that are not
negative times MACs, elements moved and weights. A Gaussian process (Rasmussen and Williams, 2006, section 2.2)
over the logarithms of shapes and hyper-parameters tells by what ratio a block leaves it: caches, strides and kernels
for special sizes are in no count. Errors count relative to what was measured, as latencies span orders of magnitude.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from scipy.optimize import nnls

from search_spaces.block import Block

# An operator with fewer rows is predicted by the roofline of all operators together.
FEWEST_ROWS = 8
FOLDS = 5
# What a block alone takes is measured to about so much, relative to all that it takes; and no model is exact.
_NOISE, _MISFIT = 0.04, 0.1
# Of what a block takes with its session, a core is at least this share: less drowns in noise.
_LEAST = 0.01
_LENGTHS, _DEVIATIONS = (1.0, 2.0, 3.0, 5.0), (0.3, 0.6, 1.2)
_STEPS = 6


class Facts(BaseModel):
    """What the latency of a block follows from: its operator, counts at batch 1, shapes and hyper-parameters."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    operator: str
    macs: int
    moved: int
    params: int
    sizes: tuple[int, ...]

    @classmethod
    def of(cls, block: Block) -> "Facts":
        """Return the facts of a block."""
        sizes = (*block.out_shape, *_numbers([getattr(block, field.name) for field in dataclasses.fields(block)]))
        return cls(
            operator=type(block).__name__, macs=block.macs, moved=block.moved, params=block.params,
            sizes=sizes,
        )  # fmt: skip

    @property
    def counts(self) -> tuple[int, int, int, int]:
        """What costs are multiples of."""
        return 1, self.macs, self.moved, self.params


def _numbers(values: Sequence[Any]) -> Iterator[int]:
    """Yield the numbers among hyper-parameters; of several further inputs, that of the first."""
    for value in values:
        if isinstance(value, tuple):
            yield from _numbers(value[:1] if value and isinstance(value[0], tuple) else value)
        elif isinstance(value, int):
            yield int(value)


Row = tuple[Facts, float]
"""A measured block: its facts, and what it takes with a session (ms)."""


class Unmeasured:
    """Predicts what blocks take (ms) without their session, from measured ``rows``.

    The same rows give the same predictions.
    """

    def __init__(self, rows: Sequence[Row], session_ms: float) -> None:
        by_operator: dict[str, list[Row]] = defaultdict(list)
        for facts, ms in rows:
            by_operator[facts.operator].append((facts, ms))
        self._pooled = _roofline([f.counts for f, _ in rows], [ms for _, ms in rows], session_ms)
        self._operators: Mapping[str, _Operator] = {
            name: _Operator(found, session_ms) for name, found in by_operator.items() if len(found) >= FEWEST_ROWS
        }

    def predict_ms(self, facts: Facts) -> float:
        """Return the predicted latency (ms) of a block, without its session."""
        operator = self._operators.get(facts.operator)
        return operator.predict_ms(facts) if operator else float(np.dot(facts.counts, self._pooled))


def left_out_predictions(rows: Sequence[Row], session_ms: float) -> NDArray:
    """Return what each row takes with a session (ms), predicted from other rows alone: ``FOLDS``-fold."""
    folds = np.random.default_rng(0).permutation(len(rows)) % FOLDS
    predicted = np.zeros(len(rows))
    for fold in range(FOLDS):
        others = Unmeasured([row for row, its in zip(rows, folds, strict=True) if its != fold], session_ms)
        for i in np.flatnonzero(folds == fold):
            predicted[i] = session_ms + others.predict_ms(rows[i][0])
    return predicted


class _Operator:
    """One operator's roofline, and a Gaussian process over the logarithms of how rows leave it."""

    def __init__(self, rows: Sequence[Row], session_ms: float) -> None:
        counts = [facts.counts for facts, _ in rows]
        measured = np.array([ms for _, ms in rows])
        self._costs = _roofline(counts, measured, session_ms)
        self._least = _LEAST * session_ms
        core = np.maximum(measured - session_ms, _LEAST * measured)
        self._logs = np.log1p([facts.sizes for facts, _ in rows])
        base = np.maximum(np.array(counts) @ self._costs, self._least)
        residual = np.log(core / base)
        noise = (_NOISE * measured / core) ** 2 + _MISFIT**2
        squares = _squares(self._logs, self._logs)
        fits = [
            (_surprise(deviation**2 * np.exp(-squares / (2 * length**2)), noise, residual), length, deviation)
            for length in _LENGTHS
            for deviation in _DEVIATIONS
        ]
        _, self._length, self._deviation = min(fits)
        kernel = self._deviation**2 * np.exp(-squares / (2 * self._length**2))
        self._weights = np.linalg.solve(kernel + np.diag(noise), residual)

    def predict_ms(self, facts: Facts) -> float:
        base = max(float(np.dot(facts.counts, self._costs)), self._least)
        squares = _squares(np.log1p([facts.sizes]), self._logs)[0]
        return base * float(np.exp(self._deviation**2 * np.exp(-squares / (2 * self._length**2)) @ self._weights))


def _roofline(counts: Sequence[Sequence[int]], measured: Sequence[float] | NDArray, session_ms: float) -> NDArray:
    """Return the costs (ms), none negative, of ``counts`` that fit best by robust relative error with a session's."""
    columns, ms = np.array(counts, float), np.asarray(measured)
    scale = columns.mean(axis=0) + 1e-12
    weights = 1 / ms
    for _ in range(_STEPS):
        found, _ = nnls(columns / scale * weights[:, None], (ms - session_ms) * weights)
        predicted = columns @ (found / scale) + session_ms
        residuals = np.abs(ms / predicted - 1)
        bound = 1.5 * 1.4826 * max(float(np.median(residuals)), 1e-9)  # Huber, as in latency.fit
        weights = np.sqrt(np.minimum(1, bound / np.maximum(residuals, bound))) / predicted
    return np.asarray(found / scale)


def _squares(left: NDArray, right: NDArray) -> NDArray:
    """Return the squared distances of rows (N x M)."""
    return np.asarray(((left[:, None] - right[None]) ** 2).sum(axis=-1))


def _surprise(kernel: NDArray, noise: NDArray, residual: NDArray) -> float:
    """Return the negative log marginal likelihood of residuals, without its constant."""
    factor = np.linalg.cholesky(kernel + np.diag(noise))
    white = np.linalg.solve(factor, residual)
    return float(white @ white / 2 + np.log(np.diag(factor)).sum())
