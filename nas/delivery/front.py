"""The front on disk: the verified, feasible, non-dominated candidates of each device."""

from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import BaseModel, ConfigDict, ValidationError

from latency.certificate import Certificate
from latency.files import read_sealed, sha256, write_sealed, write_text
from nas.search.pareto import non_dominated
from search_spaces.errors import InputError

SCHEMA_VERSION = 2


class Candidate(BaseModel):
    """A network that was trained to the end, exported, checked and re-measured on one device.

    Accuracies are fractions in [0, 1], latencies ms of one inference, ``macs`` and ``params`` counts.
    ``search_accuracy`` is what the search's oracle gave it (a prediction of ``val_accuracy``);
    ``measured_ms_low`` and ``measured_ms_high`` bound the 90 % bootstrap interval of ``measured_ms``;
    ``accurate_prediction`` tells that ``measured_ms`` is within 5 % of ``predicted_ms``. The accuracies are those of
    the file ``onnx``; ``float_val_accuracy`` is that of the network before any quantisation. ``max_difference`` is
    the largest absolute difference of the file's scores from PyTorch's. ``certificate`` is the file that vouches for
    the latency.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    id: str
    architecture: str
    origin: str
    search_accuracy: float
    val_accuracy: float
    test_accuracy: float
    float_val_accuracy: float
    predicted_ms: float
    accurate_prediction: bool
    measured_ms: float
    measured_ms_low: float
    measured_ms_high: float
    macs: int
    params: int
    onnx: str
    onnx_sha256: str
    max_difference: float
    certificate: str


class Rejected(Candidate):
    """A verified finalist that is not on the front, with the reason."""

    reason: str


class DeviceFront(BaseModel):
    """The front of one device: ``candidates`` by rising latency, and the finalists that fell out.

    ``drift`` is the device's latency now over that of when its table was built, by networks measured both times:
    predictions are of then, measurements of now. ``certificates`` vouch for every file measured on the device, by the
    id of its network; ``host`` says how quiet the machine was.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    device: str
    fingerprint: dict[str, str]
    budget_ms: float | None
    drift: float
    host: str
    certificates: dict[str, Certificate]
    candidates: tuple[Candidate, ...]
    rejected: tuple[Rejected, ...]


class Front(BaseModel):
    """All fronts of a run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    space: str
    input_shape: tuple[int, int, int]
    data: str
    data_digest: str
    classes: tuple[str, ...]
    devices: tuple[DeviceFront, ...]

    def save(self, folder: Path) -> None:
        """Write ``front.json`` and ``front.csv`` into ``folder``."""
        write_sealed(folder / "front.json", SCHEMA_VERSION, self.model_dump(mode="json"))
        write_text(folder / "front.csv", self.table().to_csv(index=False))

    @classmethod
    def load(cls, folder: Path) -> "Front":
        """Read ``front.json`` of ``folder``.

        Raises:
            InputError: the file is missing, damaged or of another schema version.
        """
        path = folder / "front.json"
        if not path.exists():
            raise InputError(f"{folder} holds no front: finish its search first, with the same `nas search` command")
        body = read_sealed(path, SCHEMA_VERSION, "front")
        try:
            return cls.model_validate(body)
        except ValidationError as error:
            raise InputError(f"front {path} is damaged: {error.errors()[0]['msg']}") from None

    def require_files(self, folder: Path) -> None:
        """Raise ``InputError`` unless every network of ``folder`` is the file that was checked and measured."""
        for device in self.devices:
            for network in (*device.candidates, *device.rejected):
                path = folder / network.onnx
                if not path.exists() or sha256(path.read_bytes()) != network.onnx_sha256:
                    raise InputError(
                        f"{path} is missing or has changed; `nas search` with the same settings makes it anew"
                    )

    def table(self) -> pd.DataFrame:
        """Return every finalist as a row, with its ``device`` and ``status`` (``front`` or the reason)."""
        rows: list[dict[str, Any]] = []
        for device in self.devices:
            for candidate in device.candidates:
                rows.append({"device": device.device, "status": "front", **candidate.model_dump()})
            for rejected in device.rejected:
                values = rejected.model_dump()
                rows.append({"device": device.device, "status": values.pop("reason"), **values})
        columns = ["device", "status", *Candidate.model_fields]
        return pd.DataFrame(rows, columns=columns)


def select(finalists: list[Candidate], budget_ms: float | None) -> tuple[tuple[Candidate, ...], tuple[Rejected, ...]]:
    """Split verified ``finalists`` into the front (by validation accuracy and measured latency) and the rest."""
    ordered = sorted(finalists, key=lambda c: (c.measured_ms, -c.val_accuracy, c.id))
    over = [c for c in ordered if budget_ms is not None and c.measured_ms > budget_ms]
    feasible = [c for c in ordered if c not in over]
    keep = non_dominated([(c.val_accuracy, c.measured_ms) for c in feasible])
    front = [c for c, kept in zip(feasible, keep, strict=True) if kept]
    rejected = [Rejected(**c.model_dump(), reason=f"over the budget of {budget_ms} ms") for c in over]
    for candidate, kept in zip(feasible, keep, strict=True):
        if not kept:
            better = next(
                f for f in front if f.measured_ms <= candidate.measured_ms and f.val_accuracy >= candidate.val_accuracy
            )
            rejected.append(Rejected(**candidate.model_dump(), reason=f"dominated by {better.id}"))
    return tuple(front), tuple(rejected)
