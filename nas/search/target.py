"""What a search is for: a device, its budget, and how the latency of an architecture there is known."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

from numpy.typing import NDArray

from latency.fit import FittedTable
from latency.table import LatencyTable
from nas.training.recorded import Recorded
from search_spaces.architecture import Architecture
from search_spaces.grid import Grid
from search_spaces.space import SearchSpace

Kind = Literal["predicted", "recorded"]
"""How a latency is known: a table predicts it, or somebody measured that very network and wrote it down."""


class Target(Protocol):
    """A device to search for; its budget (ms, None for none) decides feasibility."""

    @property
    def device(self) -> str:
        """The device's name."""
        ...

    @property
    def budget_ms(self) -> float | None:
        """The slowest network of interest (ms)."""
        ...

    @property
    def kind(self) -> Kind:
        """How latencies are known."""
        ...

    def predict_ms(self, architecture: Architecture) -> float:
        """Return the latency (ms), known before anything is trained."""
        ...


def metric(kind: Kind, device: str) -> str:
    """Return the name of a device's latency in a study, which says how it is known."""
    return f"{kind}_ms {device}"


def over_budget(targets: Sequence[Target], ms: Sequence[float]) -> dict[str, float]:
    """Return by how much (ms) each budget is exceeded, zero or less if it is kept, by the constraint's name."""
    return {
        f"budget {target.device}": value - target.budget_ms
        for target, value in zip(targets, ms, strict=True)
        if target.budget_ms is not None
    }


@dataclass(frozen=True)
class TableTarget:
    """A device whose blocks were measured."""

    space: SearchSpace
    table: LatencyTable
    budget_ms: float | None
    kind: ClassVar[Kind] = "predicted"

    @property
    def device(self) -> str:
        """The table's device."""
        return self.table.device

    def predict_ms(self, architecture: Architecture) -> float:
        """Return the predicted latency (ms)."""
        return self.table.predict_ms(self.space.blocks(architecture))

    def predict_grid_ms(self, grid: Grid, rows: NDArray) -> NDArray:
        """Return the predicted latency (ms) of each row of a grid."""
        return self.table.predict_grid_ms(grid, rows)


@dataclass(frozen=True)
class FittedTarget:
    """A device whose blocks were estimated from timings of whole networks."""

    space: SearchSpace
    table: FittedTable
    budget_ms: float | None
    kind: ClassVar[Kind] = "predicted"

    @property
    def device(self) -> str:
        """The table's device."""
        return self.table.device

    def predict_ms(self, architecture: Architecture) -> float:
        """Return the predicted latency (ms)."""
        return self.table.predict_written_ms(self.space, architecture)


@dataclass(frozen=True)
class RecordedTarget:
    """A device on which somebody measured the networks of a space one by one."""

    device: str
    latencies: Recorded
    budget_ms: float | None
    kind: ClassVar[Kind] = "recorded"

    def predict_ms(self, architecture: Architecture) -> float:
        """Return the recorded latency (ms).

        Raises:
            InputError: the table lacks the network.
        """
        return self.latencies.of(architecture)
