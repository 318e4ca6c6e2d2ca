"""The latency table: measured blocks, calibrated to whole networks, with its own error beside it."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError
from scipy import stats

from latency.device import Device
from latency.files import read_sealed, write_sealed
from search_spaces.block import Block
from search_spaces.errors import InputError
from search_spaces.operators import Identity

SCHEMA_VERSION = 1

# Beyond this error on networks that it has not seen, a table misleads more than it helps.
WORST_MAPE_PERCENT = 15.0
WORST_SPEARMAN = 0.80


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class BlockLatency(_Model):
    """One block alone in a session: first call with cold caches (p20, interval) and steady state, in ms."""

    cold_ms: float
    cold_ms_low: float
    cold_ms_high: float
    steady_ms: float


class NetworkLatency(_Model):
    """One whole network: the sum of its blocks, what the table predicts, and what was measured (ms)."""

    architecture: str
    sum_ms: float
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
        return self.mape_percent <= WORST_MAPE_PERCENT and self.spearman >= WORST_SPEARMAN


class LatencyTable(_Model):
    """Latencies of one device for the blocks of one space at one input shape (batch 1, ms).

    A network costs ``offset_ms + slope * (sum over blocks of cold_ms - session_ms)``, where ``session_ms`` is
    the cold call of an empty model: every block measured alone pays it, a whole network pays it once.
    """

    device: str
    fingerprint: dict[str, str]
    protocol: dict[str, int]
    space: str
    input_shape: tuple[int, int, int]
    classes: int
    session_ms: float
    blocks: dict[str, BlockLatency]
    slope: float
    offset_ms: float
    calibration: tuple[NetworkLatency, ...]
    held_out: tuple[NetworkLatency, ...]
    quality: Quality

    def sum_ms(self, blocks: Iterable[Block]) -> float:
        """Return the sum of the blocks' own latencies, uncalibrated.

        Raises:
            InputError: the table lacks blocks; they are named.
        """
        needed = [block.key for block in blocks if not isinstance(block, Identity)]
        missing = sorted({key for key in needed if key not in self.blocks})
        if missing:
            names = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
            raise InputError(f"the latency table of {self.device} lacks {len(missing)} blocks: {names}")
        return sum(self.blocks[key].cold_ms - self.session_ms for key in needed)

    def predict_ms(self, blocks: Iterable[Block]) -> float:
        """Return the predicted latency (ms) of the network that consists of ``blocks``.

        Raises:
            InputError: the table lacks blocks; they are named.
        """
        return self.offset_ms + self.slope * self.sum_ms(blocks)

    def require(self, device: Device, space: str, input_shape: tuple[int, int, int], classes: int) -> None:
        """Raise ``InputError`` unless the table was measured on this very device for this very space."""
        here = device.fingerprint()
        for key, value in here.items():
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
        write_sealed(path, SCHEMA_VERSION, self.model_dump(mode="json"))

    @classmethod
    def load(cls, path: Path) -> "LatencyTable":
        """Read a table.

        Raises:
            InputError: the file is missing, damaged or of another schema version.
        """
        body = read_sealed(path, SCHEMA_VERSION, "latency table")
        try:
            return cls.model_validate(body)
        except ValidationError as error:
            raise InputError(f"latency table {path} is damaged: {error.errors()[0]['msg']}") from None
