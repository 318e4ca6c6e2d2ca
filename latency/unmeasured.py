"""What blocks take that were not measured, for spaces with no end of them: predicted from the rows of a table.

That is what they take in steady state: what a block of a network works on has just been computed, and its code has
often run before; only weights come from memory, which ``latency.calibrate`` counts. Each kind of blocks starts from a
roofline-like cost (Williams et al., CACM 2009): a fixed part, and factors that are not negative times MACs, elements
moved and weights. A Gaussian process (Rasmussen and Williams, 2006, section 2.2) over the logarithms of shapes and
hyper-parameters tells by what ratio a block leaves it: caches, strides and kernels for special sizes are in no count.
Errors count relative to what was measured, as latencies span orders of magnitude.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from scipy.optimize import nnls

from search_spaces.block import Block

# A kind with fewer rows is predicted by the roofline of all blocks together.
FEWEST_ROWS = 8
FOLDS = 5
# What a block alone takes is measured to about so much, relative to all that it takes; and no model is exact.
_NOISE, _MISFIT = 0.04, 0.1
# Of what a block takes with its session, a core is at least this share: less drowns in noise.
_LEAST = 0.01
# What the likelihood chooses from: lengths over shapes and over hyper-parameters, and standard deviations.
_LENGTHS, _FORM_LENGTHS, _DEVIATIONS = (1.0, 2.0, 4.0), (0.3, 1.0, 3.0), (0.3, 0.6, 1.2, 2.4)
_SHAPES = 6
_STEPS = 6


class Facts(BaseModel):
    """What the latency of a block follows from: its kind, counts at batch 1, shapes and hyper-parameters."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: str
    macs: int
    moved: int
    params: int
    sizes: tuple[int, ...]

    @classmethod
    def of(cls, block: Block) -> "Facts":
        """Return the facts of a block."""
        sizes = (*block.out_shape, *_numbers([getattr(block, field.name) for field in dataclasses.fields(block)]))
        return cls(
            kind=block.kind, macs=block.macs, moved=block.moved, params=block.params,
            sizes=sizes,
        )  # fmt: skip

    @property
    def counts(self) -> tuple[int, int, int, int]:
        """What costs are multiples of."""
        return 1, self.macs, self.moved, self.params


def _numbers(values: Sequence[Any]) -> Iterator[int]:
    """Yield the numbers among hyper-parameters; of further inputs, how many there are and the shape of the first."""
    for value in values:
        if isinstance(value, tuple) and value and isinstance(value[0], tuple):
            yield len(value)
            yield from value[0]
        elif isinstance(value, tuple):
            yield from _numbers(value)
        elif isinstance(value, int):
            yield int(value)


Row = tuple[Facts, float]
"""A measured block: its facts, and what it takes in steady state with a session (ms)."""


class Unmeasured:
    """Predicts what blocks take (ms) in steady state without their session, from measured ``rows``.

    The same rows give the same predictions.
    """

    def __init__(self, rows: Sequence[Row], session_ms: float) -> None:
        by_kind: dict[str, list[Row]] = defaultdict(list)
        for facts, ms in rows:
            by_kind[facts.kind].append((facts, ms))
        self._pooled = _roofline([f.counts for f, _ in rows], [ms for _, ms in rows], session_ms)
        self._kinds: Mapping[str, _Kind] = {
            name: _Kind(found, session_ms) for name, found in by_kind.items() if len(found) >= FEWEST_ROWS
        }

    def predict_ms(self, facts: Facts) -> float:
        """Return the predicted latency (ms) of a block, without its session."""
        kind = self._kinds.get(facts.kind)
        return kind.predict_ms(facts) if kind else float(np.dot(facts.counts, self._pooled))


def left_out_predictions(rows: Sequence[Row], session_ms: float) -> NDArray:
    """Return what each row takes with a session (ms), predicted from other rows alone: ``FOLDS``-fold."""
    folds = np.random.default_rng(0).permutation(len(rows)) % FOLDS
    predicted = np.zeros(len(rows))
    for fold in range(FOLDS):
        others = Unmeasured([row for row, its in zip(rows, folds, strict=True) if its != fold], session_ms)
        for i in np.flatnonzero(folds == fold).tolist():
            predicted[i] = session_ms + others.predict_ms(rows[i][0])
    return predicted


class _Kind:
    """The roofline of one kind of blocks, and a Gaussian process over the logarithms of how rows leave it."""

    def __init__(self, rows: Sequence[Row], session_ms: float) -> None:
        counts = [facts.counts for facts, _ in rows]
        measured = np.array([ms for _, ms in rows])
        self._costs = _roofline(counts, measured, session_ms)
        self._least = _LEAST * session_ms
        self._sizes = [facts.sizes for facts, _ in rows]
        core = np.maximum(measured - session_ms, _LEAST * measured)
        base = np.maximum(np.array(counts) @ self._costs, self._least)
        residual = np.log(core / base)
        noise = (_NOISE * measured / core) ** 2 + _MISFIT**2
        squares = _squares(self._sizes, self._sizes)
        choices = list(product(_LENGTHS, _FORM_LENGTHS, _DEVIATIONS))
        self._choice = min(choices, key=lambda choice: _surprise(_kernel(squares, choice), noise, residual))
        kernel = _kernel(squares, self._choice)
        self._weights = np.linalg.solve(kernel + np.diag(noise), residual)

    def predict_ms(self, facts: Facts) -> float:
        base = max(float(np.dot(facts.counts, self._costs)), self._least)
        return base * float(np.exp(_kernel(_squares([facts.sizes], self._sizes), self._choice)[0] @ self._weights))


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


def _squares(left: Sequence[Sequence[int]], right: Sequence[Sequence[int]]) -> tuple[NDArray, NDArray]:
    """Return the squared distances (N x M) of blocks by the logarithms of their shapes, and of hyper-parameters."""
    steps = (np.log1p(left)[:, None] - np.log1p(right)[None]) ** 2
    return np.asarray(steps[..., :_SHAPES].sum(axis=-1)), np.asarray(steps[..., _SHAPES:].sum(axis=-1))


def _kernel(squares: tuple[NDArray, NDArray], choice: tuple[float, float, float]) -> NDArray:
    """Return the covariances (N x M) of blocks by their distances."""
    (shapes, forms), (length, form_length, deviation) = squares, choice
    return np.asarray(deviation**2 * np.exp(-shapes / (2 * length**2) - forms / (2 * form_length**2)))


def _surprise(kernel: NDArray, noise: NDArray, residual: NDArray) -> float:
    """Return the negative log marginal likelihood of residuals, without its constant."""
    factor = np.linalg.cholesky(kernel + np.diag(noise))
    white = np.linalg.solve(factor, residual)
    return float(white @ white / 2 + np.log(np.diag(factor)).sum())
