"""The latency table: measured blocks, calibrated to whole networks, with its own error beside it."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError
from scipy import stats

from latency.calibrate import Calibration, Features, Share
from latency.device import Device
from latency.files import kind_of, read_sealed, write_sealed
from latency.host import fingerprint
from latency.unmeasured import Facts, Unmeasured
from search_spaces.block import Block
from search_spaces.errors import InputError
from search_spaces.grid import Grid

SCHEMA_VERSION = 5

# Beyond this error on networks that it has not seen, a table misleads more than it helps.
WORST_MAPE_PERCENT = 15.0
WORST_SPEARMAN = 0.80
# Where blocks are predicted: latencies of such a space span orders of magnitude.
WORST_PREDICTED_MAPE_PERCENT = 20.0
_MIB = 2**20


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class BlockLatency(_Model):
    """One block alone in a session: first call with cold caches (with its 90 % interval) and steady state, in ms.

    ``plain_start`` and ``plain_end`` tell that its first and last kernels work on plain NCHW, not on channel blocks.
    ``scale`` brings these numbers to the speed at which the table's networks were measured: 1 if that was together.
    ``facts`` are there in tables from which other blocks are predicted.
    """

    cold_ms: float
    cold_ms_low: float
    cold_ms_high: float
    steady_ms: float
    plain_start: bool
    plain_end: bool
    scale: float = 1.0
    facts: Facts | None = None


class NetworkLatency(_Model):
    """One whole network: predicted by a calibration that had not seen it, and measured (ms)."""

    architecture: str
    predicted_ms: float
    measured_ms: float


class Quality(_Model):
    """How predictions compare with measurements on networks that the calibration did not see."""

    networks: int
    mape_percent: float
    within_5_percent: float
    within_10_percent: float
    spearman: float
    kendall: float

    @classmethod
    def of(cls, predicted_ms: Sequence[float], measured_ms: Sequence[float]) -> "Quality":
        """Compare predictions and measurements of the same networks."""
        errors = np.abs(np.asarray(predicted_ms) / np.asarray(measured_ms) - 1)
        return cls(
            networks=len(errors),
            mape_percent=100 * float(errors.mean()),
            within_5_percent=100 * float((errors <= 0.05).mean()),
            within_10_percent=100 * float((errors <= 0.10).mean()),
            spearman=float(stats.spearmanr(predicted_ms, measured_ms).statistic),
            kendall=float(stats.kendalltau(predicted_ms, measured_ms).statistic),
        )

    @classmethod
    def none(cls) -> "Quality":
        """Return the quality of what has not been compared yet."""
        return cls(networks=0, mape_percent=0, within_5_percent=0, within_10_percent=0, spearman=0, kendall=0)

    def lines(self) -> dict[str, str]:
        """Return the quality as label and text."""
        return {
            "networks": str(self.networks),
            "mean absolute error": f"{self.mape_percent:.1f} %",
            "within 5 % / 10 %": f"{self.within_5_percent:.0f} % / {self.within_10_percent:.0f} %",
            "Spearman / Kendall": f"{self.spearman:.2f} / {self.kendall:.2f}",
        }

    def text(self) -> str:
        """Return the quality in one line."""
        return (
            f"error {self.mape_percent:.1f} % on {self.networks} unseen networks, {self.within_10_percent:.0f} % of "
            f"them within 10 %, Kendall tau {self.kendall:.2f}"
        )

    @property
    def good(self) -> bool:
        """Whether predictions may be trusted by a search."""
        return self.within(WORST_MAPE_PERCENT)

    def within(self, worst_mape_percent: float) -> bool:
        """Tell whether the error is at most ``worst_mape_percent`` and the order good enough."""
        return self.mape_percent <= worst_mape_percent and self.spearman >= WORST_SPEARMAN


class Prediction(_Model):
    """How blocks that were not measured are predicted: their share in the table's networks, and the error.

    ``blocks`` measured ones were each predicted from others, with a session's latency, as they were measured.
    """

    predicted_percent: float
    blocks: int
    mape_percent: float
    spearman: float
    kendall: float

    def lines(self) -> dict[str, str]:
        """Return the figures as label and text."""
        return {
            "blocks that are predicted": f"{self.predicted_percent:.0f} %",
            "error on left-out blocks": f"{self.mape_percent:.1f} % of {self.blocks}",
            "Spearman / Kendall on them": f"{self.spearman:.2f} / {self.kendall:.2f}",
        }


class Session(_Model):
    """How steady the measuring was.

    ``entries_within_3_percent`` compares the blocks' latencies of both halves of the rounds, one common scale
    removed; ``anchor_drift_percent`` is how one network changed between them. ``interval_percent`` is the typical
    90 % interval (+-) of an entry, and ``held_up_percent`` by how much calls took longer than they computed.
    """

    rounds: int
    entries_within_3_percent: float
    anchor_drift_percent: float
    interval_percent: float
    held_up_percent: float
    noisy: bool

    def lines(self) -> dict[str, str]:
        """Return the steadiness as label and text."""
        return {
            "host while measuring": "noisy" if self.noisy else "quiet",
            "rounds": str(self.rounds),
            "90 % interval of a block": f"+-{self.interval_percent:.1f} %",
            "blocks within 3 % between both halves": f"{self.entries_within_3_percent:.0f} %",
            "anchor's drift between them": f"{self.anchor_drift_percent:+.1f} %",
            "calls held up": f"{self.held_up_percent:.0f} %",
        }


class LatencyTable(_Model):
    """Latencies of one device for the blocks of one space at one input shape, in ms.

    ``quantity`` names what was measured (see ``Device.quantity``). ``session_ms`` is the cold call of an empty model,
    ``session_steady_ms`` its steady state, and ``border_ms_per_mib`` what a block alone pays for its input and output,
    all at the speed of the time that ``scale`` brings to that of the table's networks; see ``latency.calibrate`` for
    how a network's latency follows.
    """

    device: str
    quantity: str
    fingerprint: dict[str, str]
    protocol: dict[str, int | float]
    space: str
    input_shape: tuple[int, int, int]
    classes: int
    session_ms: float
    session_steady_ms: float
    border_ms_per_mib: float
    scale: float = 1.0
    blocks: dict[str, BlockLatency]
    calibration: Calibration
    networks: tuple[NetworkLatency, ...]
    quality: Quality
    session: Session
    prediction: Prediction | None = None

    def lines(self) -> dict[str, str]:
        """Return how good the table is, as label and text."""
        predicted = self.prediction.lines() if self.prediction else {}
        return {**self.quality.lines(), **predicted, **self.session.lines()}

    def holds(self, quality: Quality) -> bool:
        """Tell whether a search may trust predictions of this table that are of such ``quality``."""
        return quality.within(WORST_PREDICTED_MAPE_PERCENT if self.prediction else WORST_MAPE_PERCENT)

    def missing(self, blocks: Iterable[Block]) -> list[Block]:
        """Return the blocks that the table has not measured, each once."""
        return list({b.key: b for b in blocks if not b.free and b.key not in self.blocks}.values())

    def extends(self, other: "LatencyTable") -> bool:
        """Tell whether this is the ``other`` table, perhaps with more blocks."""
        shared = {key: entry for key, entry in self.blocks.items() if key in other.blocks}
        return self.model_copy(update={"blocks": shared}) == other

    def features(self, blocks: Iterable[Block]) -> Features:
        """Return what the latency of the network of ``blocks`` is made of.

        Raises:
            InputError: the table lacks blocks, and predicts none; they are named.
        """
        body = [block for block in blocks if not block.free]
        if self._unmeasured:
            return self._features_by_kind(body)
        if missing := self.missing(body):
            names = ", ".join(block.key for block in missing[:3]) + (", ..." if len(missing) > 3 else "")
            raise InputError(f"the latency table of {self.device} lacks {len(missing)} blocks: {names}")
        entries = [self.blocks[block.key] for block in body]
        switches = sum(
            self._border_ms(after.in_shape)
            for (_, entry), (after, entry_after) in pairwise(zip(body, entries, strict=True))
            if entry.plain_end != entry_after.plain_start
        )
        return Features(core_ms=sum(map(self._core_ms, body)), blocks=len(body), switch_ms=switches)

    def _features_by_kind(self, body: Sequence[Block]) -> Features:
        core_ms: dict[str, list[float]] = {}
        for block in body:
            core_ms.setdefault(block.kind, []).append(self._steady_core_ms(block))
        kinds = {name: Share(sum(ms), len(ms)) for name, ms in core_ms.items()}
        return Features(
            core_ms=sum(share.core_ms for share in kinds.values()), blocks=len(body), switch_ms=0.0,
            millions=sum(block.params for block in body) / 1e6, kinds=kinds,
        )  # fmt: skip

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy with the values of ``update``; what follows from its rows is derived anew."""
        copied = super().model_copy(update=update, deep=deep)
        for name in ("rows", "_unmeasured", "_predicted_ms"):
            copied.__dict__.pop(name, None)
        return copied

    @cached_property
    def rows(self) -> list[tuple[Facts, float]]:
        """What blocks are predicted from, where the table does so: facts, and steady latency with a session (ms)."""
        return [(entry.facts, entry.scale * entry.steady_ms) for entry in self.blocks.values() if entry.facts]

    @cached_property
    def _unmeasured(self) -> Unmeasured | None:
        return Unmeasured(self.rows, self.scale * self.session_steady_ms) if self.rows else None

    @cached_property
    def _predicted_ms(self) -> dict[str, float]:
        """What was predicted so far (ms), by the block's key."""
        return {}

    def _steady_core_ms(self, block: Block) -> float:
        """Return what a block takes (ms) in steady state without its session: measured, or else predicted."""
        if entry := self.blocks.get(block.key):
            return max(0.0, entry.scale * entry.steady_ms - self.scale * self.session_steady_ms)
        assert self._unmeasured
        if block.key not in self._predicted_ms:
            self._predicted_ms[block.key] = self._unmeasured.predict_ms(Facts.of(block))
        return self._predicted_ms[block.key]

    def _core_ms(self, block: Block) -> float:
        """Return what a block takes (ms) without its session and its borders."""
        entry = self.blocks[block.key]
        borders_ms = (self._border_ms(block.in_shape) + self._border_ms(block.out_shape)) / 2
        return entry.scale * entry.cold_ms - self.scale * self.session_ms - borders_ms

    def _border_ms(self, shape: tuple[int, int, int]) -> float:
        batch = int(self.fingerprint.get("batch", "1"))
        return self.scale * self.border_ms_per_mib * 4 * batch * shape[0] * shape[1] * shape[2] / _MIB

    def predict_ms(self, blocks: Iterable[Block]) -> float:
        """Return the predicted latency (ms) of the network that consists of ``blocks``.

        Raises:
            InputError: the table lacks blocks; they are named.
        """
        return self.calibration.predict_ms(self.features(blocks))

    def predict_grid_ms(self, grid: Grid, rows: NDArray) -> NDArray:
        """Return the predicted latency (ms) of each row of a grid: ``predict_ms`` of thousands of networks at once.

        Raises:
            InputError: the table lacks blocks; they are named.
        """
        self.features(block for _, blocks in grid.positions for block in blocks)
        core_ms = grid.total(rows, lambda block: 0.0 if block.free else self._core_ms(block))
        count = grid.total(rows, lambda block: float(not block.free))
        switch_ms, plain_end = np.zeros(len(rows)), np.zeros(len(rows))
        for position in range(len(grid.positions)):
            runs = grid.chosen(rows, position, lambda block: float(not block.free)) > 0
            start, end = (
                grid.chosen(rows, position, lambda b, n=name: 0.0 if b.free else getattr(self.blocks[b.key], n))  # type: ignore[misc]
                for name in ("plain_start", "plain_end")
            )
            if position > 0:
                border_ms = grid.chosen(rows, position, lambda b: self._border_ms(b.in_shape))
                switch_ms += (runs & (start != plain_end)) * border_ms
            plain_end = np.where(runs, end, plain_end)
        return self.calibration.predict_many_ms(core_ms, count, switch_ms)

    def require(self, device: Device, space: str, input_shape: tuple[int, int, int], classes: int) -> None:
        """Raise ``InputError`` unless the table was measured on this very device for this very space."""
        for key, value in fingerprint(device).items():
            if self.fingerprint.get(key) != value:
                there = self.fingerprint.get(key)
                raise InputError(
                    f"the latency table was measured elsewhere: its {key} is {there!r}, here it is {value!r}; "
                    "build one on this device with `nas table build`"
                )
        found = (self.space, tuple(self.input_shape), self.classes)
        if found != (space, tuple(input_shape), classes):
            raise InputError(
                f"the latency table is for {self.space} at {self.input_shape} with {self.classes} classes, "
                f"not for {space} at {input_shape} with {classes}"
            )

    def save(self, path: Path) -> None:
        """Write the table, whole or not at all."""
        write_sealed(path, SCHEMA_VERSION, {"kind": "measured", **self.model_dump(mode="json")})

    @classmethod
    def load(cls, path: Path) -> "LatencyTable":
        """Read a table.

        Raises:
            InputError: the file is missing, damaged, of another schema version, or no measured table.
        """
        remedy = "`nas table build` makes one"
        if kind_of(path) == "fitted":
            raise InputError(f"{path} was fitted to timings; a measured table is needed here: {remedy}")
        body = read_sealed(path, SCHEMA_VERSION, "latency table", remedy)
        if body.pop("kind", None) != "measured":
            raise InputError(f"{path} is no measured latency table: {remedy}")
        try:
            return cls.model_validate(body)
        except ValidationError as error:
            raise InputError(f"latency table {path} is damaged: {error.errors()[0]['msg']}") from None
