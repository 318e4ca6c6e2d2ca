"""Latency from timings of whole networks, for devices where blocks cannot be measured one by one.

The model is additive: an offset and a cost per block. Timings are few and blocks many, so what a block costs
starts from a roofline-like prior (MACs, bytes moved and a fixed part, each times a factor that the timings
decide) and leaves it as far as cross-validation finds that the timings support it.
"""

import csv
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError
from scipy.optimize import nnls

from latency.files import kind_of, read_sealed, write_sealed
from latency.table import LatencyTable, Quality
from search_spaces.architecture import Architecture
from search_spaces.block import Block
from search_spaces.errors import InputError
from search_spaces.operators import Identity
from search_spaces.space import SearchSpace

SCHEMA_VERSION = 1
FEWEST_TIMINGS = 10
FOLDS = 5
# Networks that a runtime found to compute a constant take next to no time: an additive model cannot tell them.
NEAR_ZERO = 0.05
_STRENGTHS = 10.0 ** np.arange(-4, 4)
# Steps of reweighting; the weights have settled by then. Residuals beyond 1.5 standard deviations count less
# (Huber, Robust Statistics, 1981), the deviation being 1.4826 times the median absolute residual.
_STEPS = 6
_HUBER = 1.5 * 1.4826


class Timing(NamedTuple):
    """One row of a file of timings: line number, architecture's text, latency in ms."""

    line: int
    architecture: str
    ms: float


class FittedTable(BaseModel):
    """What the blocks of one space cost on one device (ms), fitted to ``timings`` whole networks.

    ``left_out`` timings next to zero were not used. ``pruned`` tells that the device seems to run networks without
    the parts whose result nothing uses. ``quality`` compares timings with predictions by fits that had not seen
    them (five-fold cross-validation).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["fitted"] = "fitted"
    device: str
    space: str
    input_shape: tuple[int, int, int]
    classes: int
    timings: int
    left_out: int
    pruned: bool
    offset_ms: float
    block_ms: dict[str, float]
    quality: Quality

    def predict_ms(self, blocks: Iterable[Block]) -> float:
        """Return the predicted latency (ms) of the network that consists of ``blocks``.

        Raises:
            InputError: the table lacks a block; it is named.
        """
        keys = [block.key for block in blocks if _counts(block)]
        missing = sorted(set(keys) - set(self.block_ms))
        if missing:
            raise InputError(f"the fitted table of {self.device} lacks {len(missing)} blocks: {missing[0]}, ...")
        return self.offset_ms + sum(self.block_ms[key] for key in keys)

    def predict_written_ms(self, space: SearchSpace, architecture: Architecture) -> float:
        """Return the predicted latency (ms) of an architecture as written, which need not be canonical."""
        return self.predict_ms(space.blocks(space.pruned(architecture) if self.pruned else architecture))

    def save(self, path: Path) -> None:
        """Write the table, whole or not at all."""
        write_sealed(path, SCHEMA_VERSION, self.model_dump(mode="json"))

    @classmethod
    def load(cls, path: Path) -> "FittedTable":
        """Read a table.

        Raises:
            InputError: the file is missing, damaged, of another schema version or no fitted table.
        """
        if kind_of(path) == "measured":
            raise InputError(f"{path} is not a fitted table but a measured one")
        body = read_sealed(path, SCHEMA_VERSION, "fitted table")
        if body.get("kind") != "fitted":
            raise InputError(f"{path} is not a fitted table")
        try:
            return cls.model_validate(body)
        except ValidationError as error:
            raise InputError(f"fitted table {path} is damaged: {error.errors()[0]['msg']}") from None


def load_table(path: Path) -> LatencyTable | FittedTable:
    """Read a table, measured or fitted.

    Raises:
        InputError: the file is missing, damaged or of another schema version.
    """
    return FittedTable.load(path) if kind_of(path) == "fitted" else LatencyTable.load(path)


def _counts(block: Block) -> bool:
    # A Zero counts, although our networks do not run it: others run it as a multiplication.
    return not isinstance(block, Identity)


def read_timings(path: Path) -> list[Timing]:
    """Read a CSV file with the columns ``architecture`` and ``ms``; others are passed over.

    Raises:
        InputError: the file cannot be read, lacks a column, or a latency is no positive number; the line is named.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            missing = {"architecture", "ms"} - set(rows.fieldnames or ())
            if missing:
                raise InputError(f"timings {path} lack the column {min(missing)!r}; they need architecture and ms")
            return [Timing(rows.line_num, row["architecture"] or "", _positive(path, rows, row["ms"])) for row in rows]
    except OSError as error:
        raise InputError(f"timings {path} cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"timings {path} are no CSV text: {error}") from None


def _positive(path: Path, rows: "csv.DictReader[str]", text: str | None) -> float:
    try:
        ms = float(text or "")
    except ValueError:
        ms = math.nan
    if not 0 < ms < math.inf:
        raise InputError(f"timings {path}, line {rows.line_num}: ms must be a positive number, got {text or ''!r}")
    return ms


def as_written(space: SearchSpace, path: Path, timings: Sequence[Timing]) -> list[Architecture]:
    """Return the architectures of timings as written there.

    Raises:
        InputError: a text is no architecture of the space; its line is named.
    """
    found = []
    for timing in timings:
        try:
            found.append(space.as_written(timing.architecture))
        except InputError as error:
            raise InputError(f"timings {path}, line {timing.line}: {error}") from None
    return found


def fit_timings(
    space: SearchSpace, architectures: Sequence[Architecture], timings_ms: Sequence[float], device: str, seed: int = 0
) -> FittedTable:
    """Fit what the blocks of ``space`` cost on the ``device`` (a name) where whole networks took ``timings_ms``.

    Architectures are taken as written, since that is what ran; repeated ones are averaged. Whether the device runs
    parts that nothing uses is decided by the order of the predictions in cross-validation.

    Raises:
        InputError: timings of fewer than ten networks.
    """
    repeated: dict[Architecture, list[float]] = {}
    for architecture, once in zip(architectures, timings_ms, strict=True):
        repeated.setdefault(architecture, []).append(once)
    averages = {architecture: float(np.mean(values)) for architecture, values in repeated.items()}
    least = NEAR_ZERO * float(np.median(list(averages.values()))) if averages else 0.0
    used = {architecture: average for architecture, average in averages.items() if average > least}
    if len(used) < FEWEST_TIMINGS:
        raise InputError(f"a fit needs timings of {FEWEST_TIMINGS} networks or more, got {len(used)}")
    written, ms = list(used), np.array(list(used.values()))
    blocks = [block for block in space.distinct_blocks() if _counts(block)]
    fits = [_CrossValidated.of(_Networks.of(space, blocks, written), ms, seed)]
    pruned = [space.pruned(architecture) for architecture in written]
    if pruned != written:
        fits.append(_CrossValidated.of(_Networks.of(space, blocks, pruned), ms, seed))
    best = max(fits, key=lambda fit: fit.quality.spearman)
    offset_ms, *costs = best.coefficients.tolist()
    return FittedTable(
        device=device, space=space.name, input_shape=space.input_shape, classes=space.classes, timings=len(used),
        left_out=len(averages) - len(used), pruned=best is not fits[0], offset_ms=offset_ms,
        block_ms={block.key: cost for block, cost in zip(blocks, costs, strict=True)}, quality=best.quality,
    )  # fmt: skip


@dataclass(frozen=True)
class _Networks:
    """What networks consist of: how often they have each block (N x K), and the facts of each block (K x 3)."""

    counts: NDArray
    facts: NDArray

    @classmethod
    def of(cls, space: SearchSpace, blocks: Sequence[Block], architectures: Iterable[Architecture]) -> "_Networks":
        found = [Counter(block.key for block in space.blocks(architecture)) for architecture in architectures]
        counts = np.array([[float(keys[block.key]) for block in blocks] for keys in found])
        return cls(counts, np.array([_facts(block) for block in blocks], float))

    def part(self, chosen: NDArray) -> "_Networks":
        return _Networks(self.counts[chosen], self.facts)

    def predict(self, coefficients: NDArray) -> NDArray:
        """Return the latencies (ms) by an offset and a cost per block."""
        return coefficients[0] + self.counts @ coefficients[1:]


def _facts(block: Block) -> tuple[float, float, float]:
    """Return MACs, float32 bytes moved (input, output, weights) and one."""
    return block.macs, 4 * (block.moved + block.params), 1


@dataclass(frozen=True)
class _CrossValidated:
    """A fit to all timings, and its quality on networks that were left out, at the strength that does best there."""

    coefficients: NDArray
    quality: Quality

    @classmethod
    def of(cls, networks: _Networks, ms: NDArray, seed: int) -> "_CrossValidated":
        folds = np.random.default_rng(seed).permutation(len(ms)) % FOLDS
        predictions = [_left_out_predictions(networks, ms, folds, strength) for strength in _STRENGTHS]
        # Bounded, so that no single timing decides.
        errors = [float(np.mean(np.abs(each - ms) / np.maximum(each, ms))) for each in predictions]
        best = int(np.argmin(errors))
        return cls(_fit(networks, ms, _STRENGTHS[best]), Quality.of(predictions[best].tolist(), ms.tolist()))


def _left_out_predictions(networks: _Networks, ms: NDArray, folds: NDArray, strength: float) -> NDArray:
    predicted = np.zeros(len(ms))
    for fold in range(FOLDS):
        coefficients = _fit(networks.part(folds != fold), ms[folds != fold], strength)
        predicted[folds == fold] = networks.part(folds == fold).predict(coefficients)
    return predicted


def _fit(networks: _Networks, ms: NDArray, strength: float) -> NDArray:
    """Return the offset and the blocks' costs (ms, none negative) that fit best by robust relative error."""
    weights = np.full(len(ms), 1 / np.median(ms))
    for _ in range(_STEPS):
        prior_ms = _prior(networks, ms, weights)
        coefficients = _ridge(networks.counts, ms, weights, prior_ms, strength)
        predicted = np.maximum(networks.predict(coefficients), NEAR_ZERO * np.median(ms))
        residuals = np.abs(ms / predicted - 1)
        bound = _HUBER * max(float(np.median(residuals)), 1e-9)
        weights = np.sqrt(np.minimum(1, bound / np.maximum(residuals, bound))) / predicted
    return coefficients


def _prior(networks: _Networks, ms: NDArray, weights: NDArray) -> NDArray:
    """Return what each block would cost (ms) if its facts alone decided: the best factors that are not negative."""
    totals = networks.counts @ networks.facts
    scale = totals.mean(axis=0)
    columns = np.column_stack([np.ones(len(ms)), totals / scale])
    factors, _ = nnls(columns * weights[:, None], ms * weights)
    return networks.facts @ (factors[1:] / scale)


def _ridge(counts: NDArray, ms: NDArray, weights: NDArray, prior_ms: NDArray, strength: float) -> NDArray:
    """Return offset and costs by least squares, pulled towards the prior: dear blocks may move further."""
    pull = np.sqrt(strength) / (prior_ms + prior_ms.mean() + 1e-12)
    fitting = np.column_stack([np.ones(len(ms)), counts]) * weights[:, None]
    pulling = np.column_stack([np.zeros(len(prior_ms)), np.diag(pull)])
    solution, _ = nnls(np.vstack([fitting, pulling]), np.concatenate([ms * weights, prior_ms * pull]))
    return np.asarray(solution)
